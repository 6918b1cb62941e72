"""Name the offsets that keep the random streams of one seed apart.

Data order and noise take the seed itself, and batch-norm calibration the seed plus the epoch.
"""

SCORES = 1_000_003  # initial scores, and random masks
SALIENCY_SAMPLE = 2_000_003  # training images that SNIP and GraSP look at
AWT_SAMPLE = 3_000_017  # probes and batches of AWT
DECODER = 4_000_037  # weights of the decoder of `reconstruct`
SIGN_TRAINING = 7_919  # the network that AWS trains, which is not the one that receives its signs
REINITIALISED = 1_000  # weights of a trained ticket that must not be its own again
