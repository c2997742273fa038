"""Recipes: which passes a step makes and how losses mix; one file each, one line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ndtool.training.recipes import kd, netaug, netdistiller, plain
from ndtool.training.recipes.method import MethodOf
from ndtool.types import Recipe

METHODS: Final[Mapping[Recipe, MethodOf]] = {
    Recipe.PLAIN: plain.method,
    Recipe.KD: kd.method,
    Recipe.NETAUG: netaug.method,
    Recipe.NETDISTILLER: netdistiller.method,
}
