"""``sluice lint``: what is worth a second look in manifests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from sluice.cache import UnpackedCache
from sluice.cli.consumers import Consumers, Written, files_around
from sluice.cli.findings import LintFormat, Placed, Report, is_silenced, merge, render, silenced_by
from sluice.cli.inputs import SOURCES, Inputs, SourceNotice, input_options, note_unused
from sluice.cli.locate import Disk, Locator, parse_locations
from sluice.cli.manifests import Declared, Manifest, parse_file, read_files
from sluice.cli.output import Mark, Words, emit
from sluice.cli.variables import substitute
from sluice.cli.workshop import Built, Known, Unplannable, Workshop, makes
from sluice.control.objects import DIALECT_ANNOTATION
from sluice.core.compose import Composition
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.errors import BuildError, Code, Problem, SluiceError, SourceError, SpecError
from sluice.core.lint import RULES, Artifact, Rule, Subject, Use, lint, rule_of
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import KIND, ArtifactGenerator, parse_generator, read_generator

HELP = f"""Look for mistakes in manifests, and for what may not be meant.

MANIFEST is a file, a directory, or - for standard input. Rules that need a source are skipped, with a
note, where it cannot be opened. A comment '# sluice: ignore=RULE' silences a rule, on the line of
what it finds or the line above.

{SOURCES}
\b
Exit codes:
  0  nothing was found
  1  something was found
  2  a file or an option is wrong
"""


def _explain(_: click.Context, __: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    if name not in RULES:
        close = get_close_matches(name, RULES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(RULES)}"
        raise click.BadParameter(f"no rule '{name}' ({hint})", param_hint="--explain")
    rule = RULES[name]
    emit(f"{rule.name} ({rule.severity})\n\n{rule.summary}\n\n{rule.explanation}\n".encode())
    raise click.exceptions.Exit(0)


@click.command("lint", help=HELP)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@input_options(artifact=False)
@click.option(
    "--explain",
    metavar="RULE",
    callback=_explain,
    is_eager=True,
    expose_value=False,
    help="Say what a rule is about, and end.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([form.value for form in LintFormat]),
    default=LintFormat.TEXT.value,
    show_default=True,
    help="What to print.",
)
def command(*, manifests: tuple[str, ...], inputs: Inputs, form: str) -> int:
    """Look at what is given; returns the exit code."""
    with Words() as words:
        report = _Linter(manifests, inputs, words).report()
        for text in report.skipped:
            words.say(Mark.WARNING, f"skipped: {text}")
        found = len(report.findings)
        if found:
            words.say(Mark.FAILURE, f"{found} finding{'s' * (found != 1)}")
        else:
            words.say(Mark.SUCCESS, "nothing found")
    emit(render(report, LintFormat(form)))
    return int(bool(report.findings))


class _Linter:
    """One run: reads, parses, plans, builds, and collects what is found on the way."""

    def __init__(self, inputs: Sequence[str], options: Inputs, words: Words) -> None:
        self._inputs = inputs
        self._options = options
        self._words = words
        self._texts: dict[str, list[str]] = {}
        self._found: list[Placed] = []
        self._skipped: dict[str, None] = {}
        self._uses: dict[Use, Written] = {}

    def report(self) -> Report:
        manifests = self._read()
        declared = self._declare(manifests)
        if not declared and not self._found:
            raise SpecError(Problem(Code.NOT_FOUND, "no ArtifactGenerator in it", ", ".join(self._inputs)))
        self._look(manifests, declared)
        self._check_comments()
        order = {file: number for number, file in enumerate(self._texts)}
        kept = [one for one in merge(self._found) if not self._is_silenced(one)]
        kept.sort(key=lambda one: (order.get(one.file, len(order)), one.file, one.line, one.column, one.rule.name))
        return Report(kept, list(self._skipped))

    # Reading

    def _read(self) -> list[Manifest]:
        manifests: list[Manifest] = []
        problems: list[Problem] = []
        for file, data, given in read_files(self._inputs, problems):
            try:
                read = parse_file(file, data, given=given)
            except SpecError as error:
                read = []
                for problem in error.problems:
                    self._add_at(problem.where, file, rule_of(problem), "", problem.text)
            if read or given:
                self._texts[file] = _lines(data)
            manifests += read
        if problems:
            raise SpecError(problems)
        return manifests

    def _declare(self, manifests: Sequence[Manifest]) -> list[Declared]:
        declared: dict[tuple[str, str], Declared] = {}
        for manifest in manifests:
            if manifest.kind != KIND:
                continue
            problems: list[Problem] = []
            filled = substitute(manifest.value, self._options.variables, problems)
            try:
                item = Declared(parse_generator(filled, namespace=self._options.namespace), manifest)
            except SpecError as error:
                self._add_problems(manifest, problems or error.problems)
                if not problems:
                    self._add_copy_problems(manifest, filled)
                continue
            self._add_problems(manifest, problems)
            first = declared.setdefault(item.key, item)
            if first is not item:
                text = f"{item.generator} is also in {first.manifest.locate()}"
                self._add(manifest, RULES["duplicate-name"], "", text)
        return list(declared.values())

    def _add_copy_problems(self, manifest: Manifest, value: Mapping[str, Any]) -> None:
        """What else is wrong with a generator that is not right as a whole: its copy operations."""
        try:
            generator = read_generator(value, namespace=self._options.namespace)
        except SpecError:
            return
        if generator.path_pattern is None:
            for plan in plan_artifacts(generator, None, DIALECTS[self._options.dialect]):
                if isinstance(plan, Failure) and isinstance(plan.error, SpecError):
                    self._add_problems(manifest, plan.error.problems)

    # Looking

    def _look(self, manifests: Sequence[Manifest], declared: Sequence[Declared]) -> None:
        options = self._options
        cache, known = UnpackedCache(), Known()
        locations = parse_locations(options.sources)
        locator = Locator(locations, manifests, options.variables, cache, SourceNotice(self._words))
        note_unused(locator, declared, self._words)
        workshop = Workshop(declared, locator, cache.unpack, options.dialect, known=known)
        others = [_in_other_dialect(item, options.dialect) for item in declared]
        other = Workshop(others, locator, cache.unpack, options.dialect, known=known)
        consumers = Consumers(files_around(self._inputs, Disk()), declared, options.variables, options.namespace)
        for item, twin in zip(declared, others, strict=True):
            self._words.working(f"looking at {item.generator}")
            try:
                artifacts = [*self._artifacts(workshop, item, _Other(other, twin), consumers)]
            except Unplannable as error:
                self._add_problems(error.item.manifest, error.found)
                artifacts = []
            self._lint(item, Subject(item.generator, artifacts))
        try:
            workshop.plan()
        except Unplannable as error:
            self._add_problems(error.item.manifest, error.found)
        for item in declared:
            self._check_names(workshop, item)

    def _artifacts(self, workshop: Workshop, item: Declared, other: _Other, consumers: Consumers) -> Iterator[Artifact]:
        for plan in workshop.plans(item):
            if isinstance(plan, Failure):
                self._add_failure(item, plan)
                continue
            trees = self._trees(workshop, item, plan)
            whole = trees.keys() >= plan.aliases
            built = workshop.build(item, plan) if whole else None
            yield Artifact(
                where=f"spec.artifacts[{_template(item, plan)}]",
                plan=plan,
                trees=trees,
                composition=None if built is None else _result(built),
                other=other.build(plan.name) if whole else None,
                uses=[self._use(consumer) for consumer in consumers.of(item.key, plan.name)],
            )

    def _trees(self, workshop: Workshop, item: Declared, plan: ArtifactPlan) -> dict[str, Any]:
        opened = workshop.sources(item, plan)
        for source in opened.values():
            if isinstance(source, SourceError):
                self._skipped[f"{item.generator}: {source}"] = None
        return {alias: source.tree for alias, source in opened.items() if isinstance(source, Source)}

    def _use(self, consumer: Written) -> Use:
        path = consumer.spec.get("path")
        use = Use(consumer.title, consumer.kind == "HelmRelease", path if isinstance(path, str) else "")
        self._uses[use] = consumer
        return use

    def _add_failure(self, item: Declared, failure: Failure) -> None:
        match failure.error:
            case SpecError() as error:
                where = re.compile(r"^artifact '.*?'(?=\.copy)")
                template = f"spec.artifacts[{_template(item, failure)}]"
                found = [replace(one, where=where.sub(template, one.where)) for one in error.problems]
                self._add_problems(item.manifest, found, failure.name)
            case BuildError() as error:
                self._add(item.manifest, rule_of(error), "spec.pathPattern", str(error), failure.name)
            case error:
                self._skipped[f"{item.generator}: {error}"] = None

    def _lint(self, item: Declared, subject: Subject) -> None:
        for rule, found in lint(subject):
            manifest = item.manifest if found.use is None else self._uses[found.use].manifest
            self._add(manifest, rule, found.where, found.text, found.artifact)

    def _check_names(self, workshop: Workshop, item: Declared) -> None:
        """What only planning all of them finds: an artifact that another generator makes, too."""
        try:
            plans = workshop.plans(item)
        except Unplannable:
            return
        for plan in plans:
            if isinstance(plan, Failure) and isinstance(plan.error, BuildError):
                where = (
                    "spec.pathPattern" if item.generator.path_pattern else f"spec.artifacts[{_template(item, plan)}]"
                )
                self._add(item.manifest, rule_of(plan.error), where, str(plan.error), plan.name)

    # Collecting

    def _add_problems(self, manifest: Manifest, problems: Sequence[Problem], artifact: str = "") -> None:
        for problem in problems:
            self._add(manifest, rule_of(problem), problem.where, problem.text, artifact)

    def _add(self, manifest: Manifest, rule: Rule, field: str, text: str, artifact: str = "") -> None:
        self._add_at(manifest.locate(field), manifest.file, rule, field, text, artifact)

    def _add_at(self, place: str, file: str, rule: Rule, field: str, text: str, artifact: str = "") -> None:
        numbers = [int(number) for number in place.removeprefix(file).split(":") if number.isdecimal()]
        line, column = numbers if len(numbers) == 2 else (0, 0)
        self._found.append(Placed(file, line, column, rule, field, text, (artifact,) if artifact else ()))

    # Comments

    def _check_comments(self) -> None:
        for file, lines in self._texts.items():
            for number, line in enumerate(lines, 1):
                for name, column in silenced_by(line):
                    if name not in RULES:
                        close = get_close_matches(name, RULES, n=1)
                        hint = f" (did you mean '{close[0]}'?)" if close else ""
                        text = f"no rule '{name}'{hint}"
                        self._found.append(Placed(file, number, column, RULES["unknown-rule"], "", text))

    def _is_silenced(self, one: Placed) -> bool:
        if one.file not in self._texts:  # that of a consumer
            self._texts[one.file] = [line for _, data, _ in read_files([one.file], []) for line in _lines(data)]
        return is_silenced(one, self._texts[one.file])


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").splitlines()


class _Other(Struct, frozen=True, eq=False):
    """A generator as the other dialect reads it."""

    workshop: Workshop
    item: Declared

    def build(self, name: str) -> Composition | SluiceError:
        try:
            plans = self.workshop.plans(self.item)
            plan = next((plan for plan in plans if plan.name == name), None)
            if plan is None:
                return BuildError("pathPattern finds no directory for it", Code.NO_MATCH)
            return _result(self.workshop.build(self.item, plan))
        except Unplannable as error:
            return SpecError(error.found)


def _in_other_dialect(item: Declared, default: DialectName) -> Declared:
    annotations = item.generator.annotations
    now = annotations.get(DIALECT_ANNOTATION, default)
    other = DialectName.DOCUMENTED if now == DialectName.UPSTREAM else DialectName.UPSTREAM
    generator = replace(item.generator, annotations={**annotations, DIALECT_ANNOTATION: other})
    return Declared(generator, item.manifest)


def _result(built: Built) -> Composition | SluiceError:
    result = built.composition or built.error
    assert result is not None
    return result


def _template(item: Declared, plan: ArtifactPlan | Failure) -> int:
    """The number of the artifact, or template, that a plan was made of."""
    generator: ArtifactGenerator = item.generator
    for number, spec in enumerate(generator.artifacts):
        copies = plan.recipe.copies if isinstance(plan, ArtifactPlan) else None
        if makes(generator, spec, plan.name) and (copies is None or len(copies) == len(spec.copy)):
            return number
    return 0
