"""What a model may cost: requests, tokens, dollars and time, and who is asked no more once they are spent."""

import logging
import math

from sb3_varl.advice.types import Usage

logger = logging.getLogger(__name__)


class Budget:
    """
    Limits of what is spent on asking one model. It says once that one of them is reached.

    :param model: The model's name
    :param max_requests: Requests, retries included; ``None`` for any number, as with the others
    :param max_total_tokens: Tokens, sent and received
    :param max_cost: US dollars
    :param max_seconds: Seconds spent on asking
    """

    def __init__(
        self,
        model: str,
        max_requests: int | None = None,
        max_total_tokens: int | None = None,
        max_cost: float | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self.model = model
        self.max_requests = max_requests
        self.max_total_tokens = max_total_tokens
        self.max_cost = max_cost
        self.max_seconds = max_seconds
        self._is_reported = self._misses_counts = self._misses_prices = False

    def is_left(self, spent: Usage) -> bool:
        """
        Say whether another request may be sent.

        :param spent: What was spent so far
        :return: Whether all limits have something left
        """
        if self.max_cost is not None and self._misses_prices:
            return False
        for name, limit, amount in (
            ("max_requests", self.max_requests, spent.requests),
            ("max_total_tokens", self.max_total_tokens, spent.tokens),
            ("max_cost", self.max_cost, spent.cost),
            ("max_seconds", self.max_seconds, spent.seconds),
        ):
            if limit is not None and amount >= limit:
                if not self._is_reported:
                    logger.warning("The budget %s=%s of %s is spent: it is not asked again.", name, limit, self.model)
                    self._is_reported = True
                return False
        return True

    def seconds_left(self, spent: Usage) -> float:
        """
        Say how long a request may take.

        :param spent: What was spent so far
        :return: Seconds, perhaps infinitely many
        """
        return math.inf if self.max_seconds is None else max(0.0, self.max_seconds - spent.seconds)

    def note_missing_counts(self) -> None:
        """Note that a server does not report tokens, and say so where it matters."""
        if self.max_total_tokens is not None and not self._misses_counts:
            logger.warning(
                "%s does not report how many tokens an answer took: max_total_tokens cannot be kept. "
                "Limit max_requests instead.",
                self.model,
            )
        self._misses_counts = True

    def note_missing_price(self) -> None:
        """Note that nobody knows what an answer cost. A limit in dollars then counts as reached, which is said."""
        if self.max_cost is not None and not self._misses_prices:
            logger.warning(
                "It cannot be told what an answer of %s cost, so that max_cost=%s cannot be kept: it is not asked "
                "again. Give price_per_token=(sent, received), or limit max_total_tokens or max_requests instead.",
                self.model,
                self.max_cost,
            )
        self._misses_prices = True
