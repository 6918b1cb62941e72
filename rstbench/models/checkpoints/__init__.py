"""Read weights from checkpoints of any project and match their tensors to a network's.

Every tensor is used, is on a short list of what may be ignored, or the file is refused by the tensor's name.
"""
