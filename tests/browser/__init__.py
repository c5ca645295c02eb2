"""A real browser for the tests of the page, and a desk for it to call."""
