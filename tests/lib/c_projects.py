"""C projects of models without a contract, as `ndtool codegen` writes them."""

from dataclasses import replace
from pathlib import Path

from ndtool.export.c_project import CProject, load_projects
from ndtool.export.project_stage import codegen_file
from ndtool.options import CODEGEN


def write_c_project(
    tflite: bytes, folder: Path, *, prefix: str = "nd_model", template: str = "posix"
) -> CProject:
    """The project of `tflite` in `folder`, with two golden vectors by tflite_micro."""
    source = folder.with_name(f"{folder.name}-{prefix}.tflite")
    source.write_bytes(tflite)
    options = replace(CODEGEN, template=template, prefix=prefix, golden=2)
    codegen_file(source, contract_path=None, options=options, out=folder)
    return next(project for project in load_projects(folder) if project.prefix == prefix)
