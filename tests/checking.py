"""The type checker that runs in the tests: an int is a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
