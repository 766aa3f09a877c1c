"""The losses of a student's training, and the objective that adds them up.

``losses``: one file for each, with its formula as a pure function of logits. ``temperature``:
DTKD's temperatures of each sample. ``objective``: the total, with the state that losses have.
``task``: the total of a micro-batch, from pixels.
"""
