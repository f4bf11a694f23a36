"""The paper's comparisons, run on a user's own capture: grids of fits, and reports of them."""
