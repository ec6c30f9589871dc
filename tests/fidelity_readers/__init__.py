"""How cases of tests/fidelity*/ are computed, a file a family of methods.

Each file has READERS: a case's `family`, or its `method` where it names none -> function(case, cases) -> every array by name,
computed through an ordinary card (lamm_cl.learner.build) and the moments of its pieces.  test_fidelity.py finds all files, and
compares every array that a case lists; what no reader knows is read as a prompt learner there.
"""
