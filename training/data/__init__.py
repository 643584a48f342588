r"""Data: `training_set` loads, mixes, packs or streams what a recipe's sources name; `formats` has the ways in which data
sets become samples, `samples` the one format that all of them have.
"""
