"""C projects of models without a contract, as `ndtool codegen` writes them."""

from pathlib import Path

from engine_models import golden_model

from ndtool.export.c_project import CProject, load_projects
from ndtool.export.codegen.engine_project import emit_engine
from ndtool.export.codegen.model import ALONE, marker_name
from ndtool.export.codegen.project import folder_names, write_project
from ndtool.export.int8.ir import Graph
from ndtool.export.tflite.reader import read_tflite


def write_graph(graph: Graph, folder: Path, *, prefix: str, template: str) -> None:
    """The project of `graph` in `folder`, beside the models that are there already."""
    names = folder_names(folder, prefix) if folder.exists() else ALONE
    files = emit_engine(golden_model(graph, prefix=prefix), template, names=names)
    write_project(folder, files, marker=marker_name(prefix))


def write_c_project(
    tflite: bytes, folder: Path, *, prefix: str = "nd_model", template: str = "posix"
) -> CProject:
    """The project of `tflite` in `folder`, with two golden vectors by tflite_micro."""
    write_graph(read_tflite(tflite), folder, prefix=prefix, template=template)
    return next(project for project in load_projects(folder) if project.prefix == prefix)
