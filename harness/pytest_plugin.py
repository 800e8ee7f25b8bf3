"""pytest's front door: options, the header, and the fixture that a case holds in its hand.

A case takes `lab` and gets a pristine guest. What every case needs is done around it: its books are
closed and must balance, its kthreads must be gone at the end, and the kernel must not have
complained. Every `--kernel SPEC` runs every case once more, every `--smoke SPEC` those marked
`smoke`. A YAML file that is a scenario is a test, too: it runs on its own kernels, or on those of
`--kernel`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import run_again
from harness.case_id import split_id
from harness.casework import Casework
from harness.contract.claims import KCONFIG, MARK, options_wanted, why_not
from harness.coverage.counters import keep_counters, reset_counters
from harness.errors import CacheError, LabError, NotOnTarget, UserError
from harness.judge import EMULATORS_FAULT, Judgement, judge_error, tell_hang, why_again
from harness.keepsake import keep_case
from harness.kernels import remembered
from harness.kernels.examine import why_too_many, why_without
from harness.kernels.lock import Lock, read_lock
from harness.known_issues import FILE, KnownIssue, load_known_issues, weigh
from harness.lab import Lab
from harness.machine.topology import LAUNCHERS, Topology
from harness.matrix.page import write_page
from harness.matrix.results import Collector
from harness.patience import Patience
from harness.report.record import KernelRecord
from harness.scenario.cli import refuse_with_target
from harness.scenario.items import ScenarioFile
from harness.scenario.workshops import Workshops
from harness.signs import why_not_there
from harness.target.address import Address
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from harness.target.lab import TargetLab

DEFAULT_KERNEL = "debian:7.3"
DEFAULT_CPUS = 4
KNOWN_ISSUES = pytest.StashKey[list[KnownIssue]]()
LOCK = pytest.StashKey[Lock | None]()
WORKSHOPS = pytest.StashKey[Workshops]()
COLLECTOR = pytest.StashKey[Collector]()
PATIENCE = pytest.StashKey[Patience]()


class CaseEnded(Exception):
    """A case that did not pass by the lab's own judgement: verdict and reasons."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__("\n".join((f"verdict: {judgement.verdict}", *judgement.reasons)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the lab's options."""
    group = parser.getgroup("cpumap-lab", "guests that the cases run in")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC",
        help=f"kernel to test, like debian:6.1 or path:bzImage; repeatable ({DEFAULT_KERNEL})",
    )
    group.addoption(
        "--smoke",
        action="append",
        default=[],
        metavar="SPEC",
        help="as --kernel, but only cases marked `smoke` run on it",
    )
    group.addoption(
        "--locked",
        action="store_true",
        help="take no kernels but those in configs/kernels.lock (`cpumap-lab kernels lock`)",
    )
    group.addoption(
        "--target",
        metavar="ssh://USER@HOST[:PORT]",
        help="run the cases on that machine instead of in guests; those that need a machine of "
        "their own are skipped",
    )
    group.addoption("--cpus", type=int, default=DEFAULT_CPUS, help="virtual CPUs of a guest (4)")
    group.addoption("--append", default="", metavar="ARGS", help="added to the kernel command line")
    group.addoption(
        "--launcher",
        choices=LAUNCHERS,
        help="what boots the guests: the lab itself (qemu), or virtme-ng, on this machine's own "
        "root; such a guest is reset between cases",
    )
    group.addoption(
        "--no-snapshot", action="store_true", help="boot a guest for every case, clone none"
    )
    group.addoption(
        "--artifacts",
        type=Path,
        metavar="DIR",
        help="what is kept of runs and of cases that do not pass goes there (the cache's results)",
    )
    group.addoption(
        "--page", type=Path, metavar="FILE", help="write all verdicts and stories there as HTML"
    )
    group.addoption(
        "--gcov",
        type=Path,
        metavar="DIR",
        help="keep there what each guest's kernel counted (`cpumap-lab coverage` reads it)",
    )
    group.addoption(
        "--known-issues",
        type=Path,
        default=FILE,
        metavar="FILE",
        help="what kernels are known to fail (configs/known-issues.yaml); --runxfail takes none",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse what cannot be asked for before anything is run.

    Raises:
        pytest.UsageError: a kernel spec that is none, a guest or a cache that cannot be, known
            issues that cannot be read.
    """
    config.pluginmanager.register(run_again)
    config.addinivalue_line("markers", "smoke: one of the few cases that `--smoke SPEC` runs")
    config.addinivalue_line(
        "markers",
        "machine(cpus, memory_mib, nics, nodes, mrg_rxbuf, taps, append, spare_cpus, pluggable): "
        "the guest of this case",
    )
    config.addinivalue_line(
        "markers",
        f"{MARK}(function, behaviour, since=GATE, until=GATE): what this case proves of cpumap.c; "
        "where nothing of it holds, the case is skipped",
    )
    config.addinivalue_line(
        "markers",
        f"{KCONFIG}(*options): this case takes a kernel built with these options, without CONFIG_",
    )
    config.stash[PATIENCE] = Patience()
    try:
        Topology(cpus=config.getoption("--cpus"), append=config.getoption("--append"))
        lock = config.stash[LOCK] = read_lock() if config.getoption("--locked") else None
        if config.getoption("--target"):
            Address.parse(config.getoption("--target"))
            options = ("--kernel", "--smoke", "--append", "--launcher", "--locked", "--gcov")
            refuse_with_target({option: config.getoption(option) for option in options})
        for spec in _kernels(config):
            remembered(spec, lock.pin(spec) if lock else None)
        config.stash[KNOWN_ISSUES] = load_known_issues(config.getoption("--known-issues"))
    except LabError as error:
        raise pytest.UsageError(str(error)) from error
    page = config.getoption("--page")
    if page is not None and not hasattr(config, "workerinput"):  # a worker of xdist tells it all
        if page.is_dir() or not page.absolute().parent.is_dir():
            raise pytest.UsageError(f"--page {page}: a file in a directory that exists is needed")
        config.stash[COLLECTOR] = Collector(_specs(config))
        config.pluginmanager.register(config.stash[COLLECTOR])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End guests that stand by; write the page of all that was run, even if the rest was not."""
    config = session.config
    if WORKSHOPS in config.stash:
        config.stash[WORKSHOPS].close()
    collector = config.stash.get(COLLECTOR, None)
    if collector is None:
        return
    complete = not (session.shouldstop or session.shouldfail or collector.interrupted)
    results = collector.results()
    kernels = []
    for spec in dict.fromkeys(result.kernel for result in results if result.kernel):
        image = remembered(spec)
        known = (image.release, image.sha256) if image else ()
        kernels.append(KernelRecord(spec, *known))
    complete = complete and not collector.faults
    write_page(config.getoption("--page"), results, kernels, complete=complete)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what the cases run on; what is not fetched yet is said to be so."""
    if target := config.getoption("--target"):
        return [f"target: {target}"]
    try:
        lab = Lab()
        accel = lab.accel
        version = ".".join(map(str, lab.qemu.version))
        lines = [f"QEMU: {version} ({lab.qemu.origin}), {accel.argument}: {accel.why}"]
    except LabError as error:
        lines = [f"QEMU: {error.message}"]
    for spec in _kernels(config):
        lock = config.stash[LOCK]
        kernel = remembered(spec, lock.pin(spec) if lock else None)
        lines.append(f"kernel: {spec} = {kernel.release if kernel else 'to be fetched'}")
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each case that takes `lab` on every kernel."""
    if "kernel_spec" in metafunc.fixturenames:
        specs = _specs(metafunc.config)  # their own ids, or pytest has none for a long path
        metafunc.parametrize("kernel_spec", specs, ids=specs, scope="session")


def _specs(config: pytest.Config) -> list[str]:
    """Return what the cases run on: kernels, or the target."""
    target = config.getoption("--target")
    return [str(Address.parse(target))] if target else _kernels(config)


def _kernels(config: pytest.Config) -> list[str]:
    if config.getoption("--target"):
        return []
    asked = [*config.getoption("--kernel"), *config.getoption("--smoke")]
    return list(dict.fromkeys(asked)) or [DEFAULT_KERNEL]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave only cases marked `smoke` on the kernels that were asked for with --smoke alone."""
    few = set(config.getoption("--smoke")) - set(config.getoption("--kernel"))
    left = [
        item
        for item in items
        if item.get_closest_marker("smoke") or split_id(item.nodeid, _specs(config))[1] not in few
    ]
    if len(left) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(left)])
        items[:] = left


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect scenarios."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    config = parent.config
    return ScenarioFile.of(
        parent,
        file_path,
        specs=config.getoption("--kernel"),
        default=DEFAULT_KERNEL,
        workshop=lambda target: _workshop(config, target),
    )


def _workshop(config: pytest.Config, target: str | None) -> Lab | TargetLab:
    if WORKSHOPS not in config.stash:
        snapshots = not config.getoption("--no-snapshot")
        config.stash[WORKSHOPS] = Workshops(
            lambda: Lab(snapshots=snapshots, lock=config.stash[LOCK])
        )
    return config.stash[WORKSHOPS].at(target)


@pytest.fixture(scope="session")
def workshop(pytestconfig: pytest.Config) -> Lab | TargetLab:
    """The lab that makes this session's guests; all ends here if a target cannot be reached."""
    workshop = _workshop(pytestconfig, pytestconfig.getoption("--target"))
    if not isinstance(workshop, Lab) and not hasattr(pytestconfig, "workerinput"):
        try:
            workshop.kernel()
        except LabError as error:
            pytest.exit(str(error), error.exit_status)
    return workshop


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> Topology:
    """What the case's guest is made of: the options, and over them its `machine` marker."""
    options = request.config
    asked = {"cpus": options.getoption("--cpus"), "append": options.getoption("--append")}
    if launcher := options.getoption("--launcher"):
        asked["launcher"] = launcher
    if marker := request.node.get_closest_marker("machine"):
        own = dict(marker.kwargs)
        own["append"] = " ".join([own.get("append", ""), asked["append"]]).strip()
        asked |= own
    return Topology(**asked)


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, workshop: Lab | TargetLab, kernel_spec: str, topology: Topology
) -> Iterator[Casework]:
    """A pristine guest of the kernel under test, and what to do with it."""
    kernel = workshop.kernel(kernel_spec)
    if reason := why_not(request.node, kernel.numbers):
        pytest.skip(reason)
    if reason := why_without(kernel, options_wanted(request.node)):
        pytest.skip(reason)
    if reason := why_too_many(kernel, topology.possible_cpus):
        pytest.skip(reason)
    if topology.spare_cpus and isinstance(workshop, Lab) and not workshop.unplugs_cpus(topology):
        pytest.skip("QEMU unplugs no CPU of a guest whose CPUs share a thread (--no-snapshot)")
    try:
        guest = workshop.open(kernel_spec, topology)
    except NotOnTarget as error:
        pytest.skip(str(error))
    with guest:
        if reason := why_not_there(guest, options_wanted(request.node)):
            pytest.skip(reason)
        if request.config.getoption("--gcov"):
            reset_counters(guest)
        patience = request.config.stash[PATIENCE].left(kernel_spec)
        yield Casework(guest, again=run_again.WHY in request.node.stash, patience=patience)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Judge the guest when the case has said what it has to say."""
    case = pyfuncitem.funcargs.get("lab")
    if not isinstance(case, Casework):
        return (yield)
    cause: BaseException | None = None
    result: object = None
    try:
        result = yield
    except LabError as error:
        if reason := case.guest.refused(error):
            pytest.skip(reason)
        cause, judgement = error, case.explain(error)
    except (Exception, pytest.fail.Exception) as error:
        cause, judgement = error, case.finish(failed=True)
        if judgement.verdict is not Verdict.CRASH and EMULATORS_FAULT not in judgement.reasons:
            judgement = Judgement(Verdict.FAIL, (str(error),))
            judgement = tell_hang(judgement, case.guest.machine.hang)
    else:
        judgement = case.finish()
    if into := pyfuncitem.config.getoption("--gcov"):
        keep_counters(case.guest, into)
    concerned = _known_issues(pyfuncitem, case)
    told = "\n".join((*judgement.reasons, str(cause)))
    weighed, issue = weigh(judgement, told, concerned, case.kernel)
    pyfuncitem.user_properties.append(("verdict", str(weighed.verdict)))
    if case.guest.machine.hang and weighed.verdict in (Verdict.FAIL, Verdict.CRASH):
        pyfuncitem.config.stash[PATIENCE].lose(str(pyfuncitem.funcargs["kernel_spec"]))
    if case.guest.machine.hang and weighed.verdict is not Verdict.PASS:
        pyfuncitem.user_properties.append(("hang", case.guest.machine.hang.kind.value))
    if issue:
        pyfuncitem.user_properties.append(("known_issue", issue.id))
        pytest.xfail(weighed.reasons[0])
    if weighed.verdict is Verdict.PASS:
        return result
    if pyfuncitem.get_closest_marker("xfail") is None:
        _keep(pyfuncitem, case, weighed)
    if why := why_again(weighed.reasons):
        if kept := dict(pyfuncitem.user_properties).get("artifacts"):
            why += f"; kept in {kept}"
        pyfuncitem.stash[run_again.WHY] = why
    if weighed is judgement and weighed.verdict is Verdict.FAIL and not isinstance(cause, LabError):
        raise cause or CaseEnded(weighed)  # a failed assertion of the case, with its traceback
    raise CaseEnded(weighed) from cause


def _keep(item: pytest.Function, case: Casework, judgement: Judgement) -> None:
    """Keep all that is left of a case, and tell the report where."""
    on = "--target" if item.config.getoption("--target") else "--kernel"
    command = ["pytest", item.nodeid, on, str(item.funcargs["kernel_spec"])]
    for option in ("--cpus", "--append", "--launcher"):
        asked = item.config.getoption(option)
        command += [option, str(asked)] if asked not in (DEFAULT_CPUS, "", None) else []
    command += ["--locked"] if item.config.getoption("--locked") else []
    repeat = shlex.join(command)
    try:
        root = item.config.getoption("--artifacts")
        directory = keep_case(case, item.name, judgement, repeat, root)
    except CacheError as error:  # a full disk takes no verdict away
        item.user_properties.append(("not_kept", str(error)))
        return
    item.user_properties.append(("artifacts", str(directory)))
    item.user_properties.append(("repeat", repeat))


def _known_issues(item: pytest.Function, case: Casework) -> list[KnownIssue]:
    """Return the known issues that a case is to show on its kernel."""
    if item.config.getoption("--runxfail"):
        return []
    name, _ = split_id(item.nodeid, _specs(item.config))
    return [known for known in item.config.stash[KNOWN_ISSUES] if known.concerns(name, case.kernel)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdict and, on a failure, the console's tail into the report.

    What the lab says of itself, or of the kernel, needs no Python traceback.
    """
    error = call.excinfo.value if call.excinfo is not None else None
    if call.when != "call" and isinstance(error, LabError) and not isinstance(error, UserError):
        # no guest to ask: the error itself tells whether the kernel died, or what was left behind
        item.user_properties.append(("verdict", str(judge_error(error, []).verdict)))
    report = yield
    if isinstance(error, (LabError, CaseEnded)):
        report.longrepr = str(error)
    if call.when == "call" and report.failed:
        case = getattr(item, "funcargs", {}).get("lab")
        if isinstance(case, Casework):
            machine = case.guest.machine
            if machine.hang:
                report.sections.append(("why the guest kept the lab waiting", machine.hang.summary))
            report.sections.append(("console of the guest", machine.console.tail(80)))
            if machine.argv:
                report.sections.append(("command line of QEMU", " ".join(machine.argv)))
            told = dict(item.user_properties)
            if "artifacts" in told:
                kept = f"{told['artifacts']}\nrepeat: {told['repeat']}"
                report.sections.append(("artifacts", kept))
    return report
