"""Three tiny language models, trained from scratch, and the skills they are graded on.

They ship inside the package so that routing can be tried, and tested, end to end against real
models without a network or a key: two cheap specialists (``abacus``, ``lexis``) and a dearer
generalist (``sage``). Nothing is imported here; see ``skills``, ``model`` and ``train``.
"""
