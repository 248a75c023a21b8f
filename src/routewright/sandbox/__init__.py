"""Three tiny language models, trained from scratch, and the skills they are graded on.

They ship inside the package, so that routing can be tried and tested end to end with real models,
but without a network or a key: two cheap specialists (``abacus``, ``lexis``) and a more expensive
generalist (``sage``). This module imports nothing; see ``skills``, ``model`` and ``train``.
"""
