"""Numbers in sentences."""


def count(n: int, thing: str, things: str | None = None) -> str:
    """
    Say how many there are.

    :param n: Their number
    :param thing: What one of them is called, with its verb perhaps
    :param things: What several are called; ``None`` for the same with an s, or with ies for its y
    :return: For instance ``"1 query was"`` or ``"2 queries were"``
    """
    plural = things or (f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s")
    return f"{n} {thing if n == 1 else plural}"
