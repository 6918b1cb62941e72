"""What every alarm means, in the words that the page shows."""

from __future__ import annotations

FLAGS = {
    "batch-dependent": "An image alone gets other logits than in its batch, or none at all: no figure is a "
    "property of this model, for each hangs on which images were asked together.",
    "channels-adapted": "The weights are for images of other channels; their first layer was carried over by "
    "timm's rule, and pixels are normalised by the average over the channels.",
    "few-images": "The 95 % interval of the worst case is wider than 10 points: too few images to tell "
    "neighbours in the table apart.",
    "gradient-in-forward": "The model computes gradients inside its forward pass: AutoAttack's authors "
    "advise an attack made for it.",
    "matched-by-order": "The layers of the checkpoint have other names than those of the network; they were "
    "matched by their order.",
    "non-finite-logits": "Under attack the model gave logits that are not finite. Such images are wrong.",
    "normalisation-doubtful": "Clean accuracy is clearly higher under another known normalisation, or none: "
    "this model was probably not given the pixels it was trained on.",
    "not-attacked-jointly": "The attack that fools the members of a switch together was not asked, as it is "
    "by who asks autoattack: what the switch seems to gain may be what weaker attacks leave.",
    "probabilities-not-logits": "The outputs sum to one: they look like probabilities. Gradients of losses "
    "that want logits are then too small, and attacks too weak.",
    "random-output": "Two passes over the same images differ: the model draws random numbers, and one "
    "measurement of it is one draw.",
    "sampled-switch": "AutoAttack saw one random draw of the switch a call, not its mean: the wrong way to "
    "attack it, and too weak.",
    "selected-on-test": "The epoch that was kept, or the weights of the switch, were chosen on test images, "
    "as in the paper. That flatters the figure.",
    "square-beats-gradient": "Square, which sees no gradient, broke images that the gradient attacks before "
    "it did not: the gradients may be masked.",
    "transfer-beats-white-box": "Images crafted against another model or a switch fool this one more often "
    "than its own by the same attack do, or than all its own together: these are too weak.",
    "unlearnt-mask": "The search ended with the mask it began at: what was measured is a random mask.",
    "weaker-than-pgd": "AutoAttack left more images right than PGD did.",
    "zero-gradient": "For some images the gradient is exactly zero: attacks that follow it stand still.",
}
OF_OTHERS = "Raised by an attack of another package; its documentation says what it means."


def explain(flag: str) -> str:
    return FLAGS.get(flag, OF_OTHERS)
