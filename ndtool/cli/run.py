"""ndtool run: the whole chain."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ndtool import console
from ndtool.cli.check import check_run, end_check, print_check
from ndtool.cli.codegen import codegen_run, conclude
from ndtool.cli.export import export_run
from ndtool.cli.params import (
    Force,
    Name,
    Out,
    Resume,
    Template,
)
from ndtool.cli.summary import end_if_too_large, next_baseline, print_summary
from ndtool.cli.train import cost_text, train_run
from ndtool.cli.verbs import (
    build_part,
    verb,
)
from ndtool.cli.verify import verify_run
from ndtool.errors import NdError
from ndtool.options import CHECK, CODEGEN, EXPORT, TRAIN, VERIFY, VerifyOptions

QEMU_RANDOM = 10  # inputs in QEMU: enough to see another core's faults, seconds for small models


@verb(TRAIN, EXPORT, CODEGEN, VERIFY, CHECK, borrowed={"name": "train", "out": "train"})
def run(
    ctx: typer.Context,
    name: Name = "",
    out: Out = Path("runs"),
    force: Force = False,
    resume: Resume = False,
    **values: Any,
) -> None:
    """Train, export --int8, codegen, verify and check, skipping what is up to date.

    Every tensor of the C is verified on this machine, its outputs in QEMU where the tools are.
    """
    if ctx.params.get("config") is not None:
        from ndtool.identity import require_trainable_config

        require_trainable_config(ctx.params["config"])
    train_options, train_given = build_part(ctx, TRAIN, values)
    export_options, export_given = build_part(ctx, EXPORT, values)
    codegen_options, codegen_given = build_part(ctx, CODEGEN, values)
    verify_options, verify_given = build_part(ctx, VERIFY, values)
    check_options, check_given = build_part(ctx, CHECK, values)
    from ndtool.export.summary import named_target

    named_target(codegen_options)  # refused before anything is trained
    folder, trained = train_run(
        train_options, train_given, name=name, out=out, force=force, resume=resume
    )
    if "step_ratio" in trained:
        console.out(f"training    {cost_text(trained, train_options)}")
    exported = export_run(
        folder, replace(export_options, int8=True), export_given, ctx=ctx, force=force
    )
    generated, board = codegen_run(folder, codegen_options, codegen_given, ctx=ctx, force=force)
    verified: dict[str, object] = {}
    failure: NdError | None = None
    if codegen_options.template != Template.ARRAY:
        try:
            verified = _verify(folder, verify_options, verify_given, force=force)
        except NdError as problem:  # check runs all the same (users.md, 2.6)
            failure = problem
    verdict = check_run(folder, check_options, data="", given=check_given)
    print_check(verdict)
    if failure is not None:
        raise failure
    baseline = next_baseline(check_options.baseline)
    summary = conclude(folder, codegen_options.template, board, baseline)
    console.out("")
    print_summary(summary)
    console.out_json(
        {
            "schema": "ndtool.run/1",
            "run": folder,
            "train": trained,
            "export": exported,
            "codegen": generated,
            "verify": verified,
            "check": verdict.document(),
            "summary": summary.document(),
        }
    )
    end_check(verdict)
    end_if_too_large(summary)


def _verify(
    folder: str, options: VerifyOptions, given: dict[str, str], *, force: bool
) -> dict[str, object]:
    """Where the options say; after the host also in QEMU, when its tools are there."""
    from ndtool.export.toolchain import has_tool

    verified = verify_run(folder, options, given, force=force)
    missing = [name for name in ("arm-none-eabi-gcc", "qemu-system-arm") if not has_tool(name)]
    if options.on != VERIFY.on:
        return verified
    if missing:
        console.info(f"verify: not in QEMU, without {' and '.join(missing)}; see ndtool doctor")
        return verified
    few = replace(options, on="qemu", random=min(options.random, QEMU_RANDOM))
    return verified | {"qemu": verify_run(folder, few, None, force=force)}
