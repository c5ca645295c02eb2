"""What a minute of a call costs. Pure."""


def core_seconds(cores: float, calls: int) -> float:
    """Return the processor seconds in a minute of one of `calls` that keep `cores` cores busy."""
    return 60.0 * cores / calls


def price(per_hour: float, calls: int) -> float:
    """Return the price of a minute of one of `calls`, the most on a machine of `per_hour`.

    In the currency of `per_hour`. It is the machine's price that is divided, not the part of the
    machine that is busy: at capacity nothing else can use the rest.
    """
    return per_hour / 60.0 / calls
