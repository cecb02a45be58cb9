"""Derivatives of registered functions: backward for reverse mode, tangents for forward mode.

Every function has one kernel for autograd (`autograd_kernel`). It works under each of torch.func's
transforms and for dual numbers (torch.autograd.forward_ad), and costs plain calls next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from ._private_torch import (
    SingleLevelFunction,
    any_requires_grad,
    are_functorch_transforms_active,
    below_autograd,
    forward_mode_enabled,
    in_forward_mode,
    is_transformed,
    single_level_allowed,
)
from .backends import forced_backend, use_backend

# A rule of forward mode: (op, arguments, tangents, output) -> the tangent of the output, or one
# tangent or None for each output. `arguments` holds all arguments by name, `tangents` those of the
# arguments that have one. The rule is made of differentiable operations.
Tangent = Callable[[Any, dict[str, Any], dict[str, torch.Tensor], Any], Any]


@dataclasses.dataclass(frozen=True)
class Autograd:
    """The derivative of one function.

    Attributes:
        setup_context: (ctx, inputs, output), as for torch.library.register_autograd.
        backward: (ctx, *grads) -> one gradient or None per input.
        tangent: the rule of forward mode; None: asking for it is an error.
    """

    setup_context: Callable[..., None]
    backward: Callable[..., Any]
    tangent: Tangent | None = None


def multilinear(*factors: str, added: tuple[str, ...] = ()) -> Tangent:
    """The rule of a function that is linear in each of its factors, and to which others are added.

    The product rule: for every factor that has a tangent, the function with the tangent in its
    place. `added` are arguments that a term may leave out (None).
    """

    def tangent(
        op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: Any
    ) -> Any:
        moved = [name for name in factors if name in tangents]
        first = {name: tangents.get(name) for name in added}
        if not moved:  # of the added ones alone
            moved, tangents = [factors[0]], {factors[0]: torch.zeros_like(arguments[factors[0]])}
        rest: dict[str, Any] = dict.fromkeys(added)
        total = None
        for name in moved:
            others = first if total is None else rest
            term = op(*{**arguments, **others, name: tangents[name]}.values())
            total = term if total is None else total + term
        return total

    return tangent


def by_argument(**rules: Tangent) -> Tangent:
    """The sum of what each argument that has a tangent contributes, by a rule of its own."""

    def tangent(
        op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: Any
    ) -> Any:
        terms = [
            rules[name](op, arguments, {name: moved}, output) for name, moved in tangents.items()
        ]
        return sum(terms[1:], terms[0])

    return tangent


def by_definition(function: Callable[..., Any]) -> Autograd:
    """Every derivative, of any order, through PyTorch's own of a composition.

    For functions that are seldom differentiated: the backward of a nonlinear op. `function` takes
    the arguments of the schema, writes nothing in place, and its results are those of the op.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        where = [i for i, a in enumerate(inputs) if isinstance(a, torch.Tensor)]
        ctx.save_for_backward(*(inputs[i] for i in where))
        ctx.where, ctx.inputs = where, [None if i in where else a for i, a in enumerate(inputs)]

    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        # A view: where a transform has ended, what it saved is no tensor of the others.
        saved = [x.view_as(x) for x in ctx.saved_tensors]
        needed = [i for i in ctx.where if ctx.needs_input_grad[i]]

        def of_needed(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            inputs = list(ctx.inputs)
            for i, x in zip(ctx.where, saved, strict=True):
                inputs[i] = x
            for i, x in zip(needed, values, strict=True):
                inputs[i] = x
            results = function(*inputs)
            results = results if isinstance(results, tuple) else (results,)
            return tuple(r for r, g in zip(results, grads, strict=True) if g is not None)

        moved = [saved[ctx.where.index(i)] for i in needed]
        pull_back = torch.func.vjp(of_needed, *moved)[1]
        found = pull_back(tuple(g for g in grads if g is not None))
        by_place = dict(zip(needed, found, strict=True))
        return tuple(by_place.get(i) for i in range(len(ctx.inputs)))

    return Autograd(setup_context, backward, tangent_by_definition(function))


def tangent_by_definition(function: Callable[..., Any]) -> Tangent:
    """The rule that computes `function`, a composition of PyTorch's operations, on dual numbers."""

    def tangent(
        op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: Any
    ) -> Any:
        duals = {name: forward_ad.make_dual(arguments[name], t) for name, t in tangents.items()}
        results = function(*{**arguments, **duals}.values())
        if isinstance(results, tuple):
            return tuple(forward_ad.unpack_dual(r).tangent for r in results)
        return forward_ad.unpack_dual(results).tangent

    return tangent


def autograd_kernel(op: Any, autograd: Autograd | None) -> Callable[..., Any]:
    """The kernel of `op` for the dispatcher's autograd key.

    What torch.library.register_autograd would register, at half its cost per call, and with
    forward mode.
    """
    names = [a.name for a in op._schema.arguments]
    count = len(names)

    def forward(ctx: Any, *args: Any) -> Any:
        if are_functorch_transforms_active():
            # apply() has switched both off, for the transforms around this one too.
            with torch.enable_grad(), forward_mode_enabled(True), below_autograd():
                output = op(*args[:count])
        else:
            with below_autograd():
                output = op(*args[:count])
        if autograd is not None:
            ctx.forced_backend = forced_backend()
            autograd.setup_context(ctx, args, output)
        return output

    def backward(ctx: Any, *grads: Any) -> Any:
        if autograd is None:
            raise NotImplementedError(f"{op} has no derivative")
        # The backward follows the forward's choice: it may run outside the with block, or on an
        # autograd thread that does not see the context variable.
        if ctx.forced_backend is forced_backend() or torch.compiler.is_compiling():
            return autograd.backward(ctx, *grads)
        with use_backend(ctx.forced_backend):
            return autograd.backward(ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    derivative: Any = type(op._opname, (SingleLevelFunction,), members)

    def reverse_mode(*args: Any) -> Any:
        if torch.is_grad_enabled() and any_requires_grad(*args):
            if not is_transformed():
                return derivative.apply(*args, *_listed(args))
            # Tangents are for _forward_mode; what is saved for the backward keeps them.
            with single_level_allowed(), forward_mode_enabled(False):
                return derivative.apply(*args, *_listed(args))
        with below_autograd():
            return op(*args)

    def kernel(*args: Any) -> Any:
        if in_forward_mode():
            tangents = _tangents(names, args)
            if tangents:
                arguments = dict(zip(names, args, strict=True))
                return _forward_mode(op, autograd, reverse_mode, arguments, tangents)
        if torch.is_grad_enabled() and any_requires_grad(*args):
            return reverse_mode(*args)
        with below_autograd():  # as reverse_mode would: a call costs, and most calls end here
            return op(*args)

    return kernel


def _listed(args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Tensors in lists, which autograd does not look into: those of functions that have no
    derivative, so that asking for it is an error there too."""
    lists = (a for a in args if isinstance(a, (list, tuple)))
    return [t for values in lists for t in values if isinstance(t, torch.Tensor)]


def _tangents(names: list[str], args: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    """The forward-mode derivatives that arguments carry, by name; of lists under the list's."""
    found = {}
    for name, value in zip(names, args, strict=True):
        for x in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                tangent = forward_ad.unpack_dual(x).tangent
                if tangent is not None:
                    found[name] = tangent
    return found


def _forward_mode(
    op: Any,
    autograd: Autograd | None,
    compute: Callable[..., Any],
    arguments: dict[str, Any],
    tangents: dict[str, torch.Tensor],
) -> Any:
    """The result of `op`, from compute(), with its forward-mode derivative."""
    output = compute(*arguments.values())
    results = output if isinstance(output, (tuple, list)) else (output,)
    if not any(isinstance(r, torch.Tensor) and r.is_floating_point() for r in results):
        if op._schema.is_mutable:
            raise NotImplementedError(f"{op} writes a result that has no forward-mode derivative")
        return output
    if autograd is None or autograd.tangent is None:
        raise NotImplementedError(f"{op} has no forward-mode derivative")
    primals = {
        name: forward_ad.unpack_dual(x).primal if name in tangents else x
        for name, x in arguments.items()
    }
    moved = autograd.tangent(op, primals, tangents, output)
    if isinstance(output, torch.Tensor):
        return _dual(output, moved)
    return type(output)(_dual(r, t) for r, t in zip(output, moved, strict=True))


def _dual(result: torch.Tensor, tangent: torch.Tensor | None) -> torch.Tensor:
    return result if tangent is None else forward_ad.make_dual(result, tangent)
