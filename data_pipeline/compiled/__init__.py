"""The numba decorator and the counter-based random numbers of the compiled inner loops."""
