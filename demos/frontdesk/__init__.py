"""A clinic's front desk that answers the phone: books, moves and cancels appointments."""
