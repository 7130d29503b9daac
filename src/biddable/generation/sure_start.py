"""How a greedy answer begins, as far as losses on a reference answer already say it.

A token that has more than half of the probability is the likeliest one. So as long as each token
of the reference has that, greedy decoding writes it too, and need not: what a model has learned
well is read off the pass that measures its loss (batch.py). From the first token that is less sure
the answer has to be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

# The loss of a token with 0.55 of the probability. Then the next likeliest is at least 0.2 below it
# in logits, more than passes of other shapes differ by, in half precision too.
SURE = 0.6


def sure_start(
    prompt: Sequence[int], ids: Sequence[int], weights: Sequence[float], losses: Sequence[float]
) -> tuple[int, ...]:
    """The first tokens of the greedy answer to a prompt, the stop token included; or none.

    Args:
        prompt: the ids that the answer follows.
        ids, weights: those of an example, (T,) each; one that does not begin with the prompt says
            nothing.
        losses: CE of each of its tokens whose weight is above 0, in order.

    >>> sure_start([5], [5, 6, 7, 8], [0, 1, 1, 1], [0.1, 0.2, 3.0])
    (6, 7)
    """
    start = len(prompt)
    if list(ids[:start]) != list(prompt):
        return ()
    at = sum(weight > 0 for weight in weights[:start])
    end = start
    while end < len(ids) and weights[end] > 0 and losses[at + end - start] < SURE:
        end += 1
    return tuple(ids[start:end])
