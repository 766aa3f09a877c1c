"""What compiled inner loops are made with: the numba decorator and counter-based random numbers."""
