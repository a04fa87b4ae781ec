"""Fuzz targets: parsers of ours, each given any bytes.

`make fuzz` runs every `fuzz_NAME.py` under atheris for SECONDS, guided by what they reach in the package.
A target is a function `read(data)`, which may end in nothing but a return: errors of ours are its business.
It begins with the inputs in `corpus/NAME/`: small valid files, what earlier runs found to reach new places,
and what once broke the parser. The tests read them all again.
"""
