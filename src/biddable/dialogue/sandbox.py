"""The one place where Jinja runs: sandboxed as in transformers, and bounded in work and size.

A chat template comes with a model that somebody else made, so it is untrusted code. It gets the
environment that transformers gives it (same white space rules, same globals), less what it does
not need; its syntax tree is rewritten so that all it does is charged to a budget (budget.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from biddable.data.findings import BiddableError
from biddable.dialogue import budget as bounds
from biddable.dialogue.budget import BUDGET, Budget, budget_of

LONGEST_TEMPLATE = 1_000_000
# Cannot be written in a template.
CHARGE, EACH = " charge", " each"

# Those whose result is no larger than what they are given; budget.py has the others.
FILTERS = """
abs capitalize count d default dictsort first float int items last length list lower max min reject
rejectattr reverse round safe select selectattr sort string title trim unique upper
"""
REFUSED_STATEMENTS = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.FilterBlock,
    nodes.ScopedEvalContextModifier,
)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox with a budget for calls and operators."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # jinja2 hands out an undefined value, which prints as nothing; say it instead.
        kind = type(obj).__name__
        raise SecurityError(f"access to attribute {attribute!r} of {kind!r} object is unsafe")

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.spend(bounds.CALL)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) or name in ("format", "format_map"):
            bounds.check_method(
                budget, owner if isinstance(owner, str) else "", name, [*args, *kwargs.values()]
            )
        result = super().call(context, obj, *args, **kwargs)
        budget.take(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = budget_of(context)
        if operator == "+":
            result = left + right
        else:
            bounds.check_binop(budget, operator, left, right)
            result = super().call_binop(context, operator, left, right)
        if isinstance(result, (str, list, tuple)):
            # What a list holds was charged when it was made.
            budget.check_size(len(result))
            budget.spend(1 + (len(result) >> 6))
        else:
            budget.take(result)
        return result


class GenerationTag(Extension):
    """Accepts `{% generation %}`, the marker of trained text, and prints its body."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class QuietNamespace(Namespace):
    """`namespace` without private names, and without a printed form that could grow."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError("a namespace may hold no private names")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict` as a plain function, so that a template gets no class in its hands."""
    return dict(*args, **kwargs)


def raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def strftime_now(format: object) -> str:
    raise TemplateError(f"the template asks for the date in a form found nowhere in it: {format}")


def sandbox() -> Sandbox:
    """The environment of transformers' chat templates, less what varies or cannot be bounded."""
    env = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        # Constants folded while compiling would escape the budget.
        optimized=False,
        extensions=[GenerationTag, loopcontrols],
        finalize=bounds.written,
    )
    env.filters = {name: env.filters[name] for name in FILTERS.split()} | {
        "tojson": bounds.to_json,
        "map": bounds.mapped,
        "join": bounds.joined,
        "replace": bounds.replaced,
        "indent": bounds.indented,
        CHARGE: bounds.charge,
        EACH: bounds.each,
    }
    env.globals = {
        "range": env.globals["range"],
        "dict": make_dict,
        "namespace": QuietNamespace,
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }
    return env


def charged(value: nodes.Node) -> nodes.Node:
    """A node with all below it rewritten so that its work is charged to the budget."""
    if isinstance(value, REFUSED_STATEMENTS):
        raise TemplateError(f"a chat template may not use {type(value).__name__.lower()}")
    literal = loop_text(value) if isinstance(value, nodes.For) else 0
    for name, field in value.iter_fields():
        if isinstance(field, nodes.Node):
            setattr(value, name, charged(field))
        elif isinstance(field, list):
            setattr(value, name, [charged(f) if isinstance(f, nodes.Node) else f for f in field])
    if isinstance(value, nodes.For):
        if value.recursive:
            raise TemplateError("a chat template may not use recursive loops")
        value.iter = filtered(value.iter, EACH, [nodes.Const(literal)])
    return charged_result(charged_parts(value))


def charged_parts(value: nodes.Node) -> nodes.Node:
    """Wraps the parts of a node that may be large."""
    if isinstance(value, nodes.AssignBlock):
        value.filter = filtered(value.filter, CHARGE)
    elif isinstance(value, (nodes.Compare, nodes.Operand)):
        if not isinstance(value.expr, nodes.Const):
            value.expr = filtered(value.expr, CHARGE)
    elif isinstance(value, nodes.Filter) and value.name not in (CHARGE, EACH):
        if value.node is not None:
            value.node = filtered(value.node, CHARGE)
    elif isinstance(value, nodes.Test) and value.args:
        value.node = filtered(value.node, CHARGE)
        value.args = [filtered(argument, CHARGE) for argument in value.args]
    return value


def charged_result(value: nodes.Node) -> nodes.Node:
    """Wraps an expression whose result may be large."""
    if isinstance(value, nodes.Filter):
        return value if value.name in (CHARGE, EACH) else filtered(value, CHARGE)
    made = isinstance(value, (nodes.Concat, nodes.List, nodes.Dict)) or (
        isinstance(value, nodes.Tuple) and value.ctx == "load"
    )
    cut = isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice)
    return filtered(value, CHARGE) if made or cut else value


def filtered(value: Any, name: str, args: list[nodes.Expr] | None = None) -> nodes.Filter:
    line = value.lineno if value is not None else 0
    return nodes.Filter(value, name, args or [], [], None, None, lineno=line)


def loop_text(loop: nodes.For) -> int:
    """The characters of literal text that one turn of a loop can print."""
    return sum(len(data.data) for data in loop.find_all(nodes.TemplateData))


@lru_cache(maxsize=64)
def compiled(text: str) -> Template:
    env = sandbox()
    tree = env.parse(text)
    tree.body = [charged(node) for node in tree.body]
    # New nodes have no environment yet.
    tree.set_environment(env)
    return env.from_string(tree)


def parse(text: str) -> nodes.Template:
    """The syntax tree of a template, to look things up in it.

    Raises:
        BiddableError: `template_refused`, it is too long or no Jinja.
    """
    check_length(text)
    try:
        return sandbox().parse(text)
    except Exception as error:
        raise refusal(error) from None


def render(text: str, variables: Mapping[str, Any], characters: int) -> str:
    """Renders a template within a budget that grows with the `characters` it is given.

    Raises:
        BiddableError: `template_refused`, with what the template itself said where it did.
    """
    check_length(text)
    try:
        return "".join(compiled(text).generate({**variables, BUDGET: Budget(characters)}))
    except Exception as error:
        raise refusal(error) from None


def check_length(text: str) -> None:
    if len(text) > LONGEST_TEMPLATE:
        raise BiddableError(
            f"The chat template has {len(text):,} characters.",
            fix=f"Use a template of at most {LONGEST_TEMPLATE:,}.",
            code="template_refused",
        )


def refusal(error: Exception) -> BiddableError:
    said = str(error) or type(error).__name__
    return BiddableError(
        f"The chat template does not render this conversation: {said}",
        fix="Change the conversation, or choose another template with --template.",
        code="template_refused",
    )
