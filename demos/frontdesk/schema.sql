-- The clinic's book. A slot is sold once and a patient holds one upcoming appointment:
-- the first is an index, the second is checked in the transaction that writes.

CREATE TABLE IF NOT EXISTS patients (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (name = lower(name))
) STRICT;

CREATE TABLE IF NOT EXISTS appointments (
    id INTEGER PRIMARY KEY,
    patient INTEGER NOT NULL REFERENCES patients (id),
    start TEXT NOT NULL UNIQUE
        CHECK (start GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[03]0')
        CHECK (substr(start, 12) BETWEEN '09:00' AND '16:30' AND substr(start, 12, 2) <> '12')
        CHECK (strftime('%w', start) BETWEEN '1' AND '5')
) STRICT;

CREATE INDEX IF NOT EXISTS appointments_of_patient ON appointments (patient, start);
