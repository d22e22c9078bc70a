"""The regret of advice: the exhaustive search that it spares, the advice itself, and what it lost.

    python benchmarks/regret.py search SHARED     # every option of every cell and draw, trained and tested; hours
    python benchmarks/regret.py advise SHARED     # advice on every draw, within the budget
    python benchmarks/regret.py score             # the tables of docs/regret.md
    python benchmarks/regret.py learn             # the experience that comes with the package, from all searches

Every option (a treatment with a learning rate) is trained on the whole training set and its test accuracy kept, in a
table for each cell under TABLES/search; in some draws also after a quarter of the steps, as a race tries it. Advice,
which sees the training sets alone, is under `TABLES/advised at 10%`, or whatever `--budget` is. What it knows from
other nets and data it learns, for each cell, from searches that share neither its source nor its target. A cell whose
search has its table is not searched again. SHARED is the folder of the shared data; `--store DIR`, `--tables DIR`,
`--cells TEXT`, `--seeds N` say what is done.
"""

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from believing import circumstances, constants, lost
from cells import CELLS, ORIGINS, Bench, Cell, task, weights
from scoring import DRAW, OPTION, Coverage, bars, by_confidence, coverage, fixed, hindsight, interval, regret

from layerwise.advising.asking import Asking
from layerwise.advising.candidates import RATES, Option, candidates, options, recipes
from layerwise.advising.cost import flops
from layerwise.advising.experience import Experience, Seen
from layerwise.advising.gradient import rates_of, relative_gradients
from layerwise.advising.racing import SHARES
from layerwise.data.dataset import DataSet, cached, shape_of
from layerwise.errors import StudyError
from layerwise.feed import feed, scaled
from layerwise.job import Job, Means
from layerwise.layers import layers
from layerwise.listening import Several
from layerwise.nets import architecture, build
from layerwise.probes.activations import activations
from layerwise.probes.scores import FROM_FEATURES, scores
from layerwise.progress import Quiet
from layerwise.result import restore
from layerwise.run import Run, Weights, key
from layerwise.store import Record
from layerwise.tasks import Task

TABLES = Path(__file__).with_name("regret_tables")
BY_SCORE = "best layer by {}"
NONE = Experience(())  # before the first search there is none
CUT_SHORT = 4  # draws of a cell in which options are trained with a quarter of the steps as well
FREEZING = ("linear probe", "freeze 1/4", "freeze 2/4", "freeze 3/4", "fine-tune")
FIXED = ("linear probe", "fine-tune", "LP-FT", "Auto-RGN", "scratch")
GROUPS = {"resnet20": (1, *(2,) * 9, 1), "resnet32": (1, *(2,) * 15, 1)}  # layers a residual block; others have none


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("what", choices=("search", "advise", "score", "learn"))
    asked.add_argument("shared", type=Path, nargs="?", help="the folder of the shared data")
    asked.add_argument("--store", type=Path, default=Path("layerwise-regret"))
    asked.add_argument("--tables", type=Path, default=TABLES, help="by default those that come with the project")
    asked.add_argument("--cells", default="", help="only cells whose names contain this")
    asked.add_argument("--seeds", type=int, help="at most so many draws a cell")
    asked.add_argument("--budget", type=float, default=0.1, help="of advice: a share of the exhaustive search")
    chosen = asked.parse_args()
    torch.set_num_threads(1)
    cells = [cell for cell in CELLS if chosen.cells in cell.name]
    if chosen.seeds is not None:
        cells = [replace(cell, seeds=min(chosen.seeds, cell.seeds)) for cell in cells]
    searches, told = chosen.tables / "search", chosen.tables / f"advised at {chosen.budget:.0%}"
    if chosen.what == "score":
        print(scored(whole(read(searches, cells)), read(told, cells)))
        return
    if chosen.what == "learn":
        learn_from(read(searches, cells))
        return
    if chosen.shared is None:
        asked.error(f"{chosen.what} needs SHARED, the folder of the shared data")
    bench = Bench(chosen.shared.absolute(), chosen.store.absolute())
    for cell in cells:
        begun = time.perf_counter()
        if chosen.what == "advise":
            others = [one for one in elsewhere(cell) if place(searches, one).exists()]
            rows = advise(bench, cell, chosen.budget, learnt(read(searches, others)) if others else NONE)
            write(place(told, cell), rows, begun)
        elif place(searches, cell).exists():
            print(f"{cell.name}: its table is there")
        else:
            write(place(searches, cell), search(bench, cell), begun)


def place(folder: Path, cell: Cell) -> Path:
    """Where a cell's table is."""
    return folder / f"{cell.name}.csv"


def read(folder: Path, cells: list[Cell]) -> pd.DataFrame:
    """The tables of these cells that are there."""
    there = [cell for cell in cells if place(folder, cell).exists()]
    if not there:
        raise SystemExit(f"{folder} has no table of these cells: first search, then advise")
    tables = [pd.read_csv(place(folder, cell)).assign(cell=cell.name, shots=cell.shots) for cell in there]
    return pd.concat(tables, ignore_index=True)


def whole(searched: pd.DataFrame) -> pd.DataFrame:
    """The rows of options that were trained with all steps."""
    return searched[searched["share"] == 1]


def write(path: Path, rows: list[dict[str, Any]], begun: float) -> None:
    """A cell's table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    print(f"{path.stem}: {len(rows)} rows, {time.perf_counter() - begun:.0f} s", flush=True)


def search(bench: Bench, cell: Cell) -> list[dict[str, Any]]:
    """Train what the store lacks of a cell's exhaustive search, all draws together: the rows of its table."""
    draws = [Draw.of(bench, cell, seed) for seed in range(cell.seeds)]
    data = draws[0].data
    probes = [draw.run(draw.probe) for draw in draws]
    trained(bench, probes, data, keep=True)
    every = [
        (draw, option, share, draw.run(option, draw.rates(bench), share))
        for draw in draws
        for option in draw.options
        for share in (SHARES if draw.seed < CUT_SHORT else (1.0,))
    ]
    records = trained(bench, [run for *_, run in every], data)
    seen = {draw.seed: asdict(draw.asking(bench, cell).here) for draw in draws}
    return [
        row(draw, option, share, run, records.get(key(run))) | seen[draw.seed] for draw, option, share, run in every
    ]


def advise(bench: Bench, cell: Cell, budget: float, known: Experience) -> list[dict[str, Any]]:
    """Ask for advice on each draw of a cell, as a user would: the rows of what was advised."""
    askings = [Draw.of(bench, cell, seed).asking(bench, cell, known) for seed in range(cell.seeds)]
    return [advised(asking, budget) for asking in askings]


def elsewhere(cell: Cell) -> list[Cell]:
    """The cells that share neither source nor target with this one."""
    return [one for one in CELLS if one.origin != cell.origin and one.target != cell.target]


def learn_from(searched: pd.DataFrame) -> None:
    """Write the experience that comes with the package, and tell the constants of belief that it speaks for."""
    learnt(searched).save()
    there = [cell for cell in CELLS if cell.name in set(searched["cell"])]
    others = {cell: [one.name for one in elsewhere(cell) if one in there] for cell in there}
    told = [
        (learnt(searched[searched["cell"] == cell.name]).seen[0], learnt(searched[searched["cell"].isin(names)]))
        for cell, names in others.items()
        if names
    ]
    if not told:
        print("no constants of belief: they take cells that share neither source nor target")
        return
    print(f"constants of greatest likelihood over {len(told)} cells: {constants(told)}")


def learnt(searched: pd.DataFrame) -> Experience:
    """What these searches tell of options, draws of a cell taken together."""
    seen = [
        Seen(
            circumstances(rows),
            whole(rows).groupby(["policy", "rate"])["accuracy"].mean().to_dict(),
            lost(rows).groupby(["policy", "rate"])["lost"].mean().to_dict(),
        )
        for _, rows in searched.groupby("cell", sort=False)
    ]
    return Experience(tuple(seen), f"{searched.groupby(DRAW).ngroups} draws of {len(seen)} cells")


def advised(asking: Asking, budget: float) -> dict[str, Any]:
    """What is advised in one draw, and what single scores of the layers would have done."""
    found = asking.advice(budget, (), "")
    best, (low, high) = found.recommended, found.interval
    return {
        "seed": asking.seed,
        "policy": best.policy,
        "treatment": best.letters,
        "rate": best.rate,
        "expected": best.accuracy,
        "low": low,
        "high": high,
        "level": found.level,
        "sure": found.is_sure,
        "trials": best.trials,
        "share": found.cost["spent"] / found.cost["exhaustive"],
        **{BY_SCORE.format(score): policy for score, policy in by_score(asking).items()},
    }


def by_score(asking: Asking) -> dict[str, str]:
    """For each score the policy that keeps what lies up to its best layer frozen, and tunes the rest."""
    data = asking.rehearsal.data
    names = [layer.name for layer in asking.source_layers[:-1]]
    seen = activations(asking.source_net, scaled(data.images, architecture(asking.net)), found=asking.source_layers)
    labels = torch.from_numpy(data.labels)
    of_layers = [scores(seen[name], labels) for name in names]
    frozen = {
        option.candidate.policy: option.candidate.treatment.expanded.count("F")
        for option in asking.race.options
        if option.candidate.policy in FREEZING
    }
    found = {}
    for score in FROM_FEATURES:
        values = [one[score] for one in of_layers]
        known = [k for k, value in enumerate(values) if not isinstance(value, str)]
        if known:
            depth = 1 + max(known, key=lambda k: values[k])
            found[score] = min(frozen, key=lambda policy: abs(frozen[policy] - depth))
    return found


def trained(bench: Bench, runs: list[Run], data: DataSet, *, keep: bool = False) -> dict[str, Record]:
    """The records of all runs but those that diverged; raises StudyError where another one failed."""
    place = cached(data, bench.store / "data" / data.digest)
    job = Job(runs, bench.shelf, data, {data.digest: place}, Means(keep=keep), Quiet())
    job.complete()
    if job.faults:
        raise StudyError(job.faults[0])
    return job.records


def row(draw: "Draw", option: Option, share: float, run: Run, record: Record | None) -> dict[str, Any]:
    """What became of an option in one draw; a net that diverged, of which there is no record, is right by chance."""
    ends = {what: value for _, split, what, value in record.result["curve"] if split == "test"} if record else {}
    return {
        "seed": draw.seed,
        "policy": option.candidate.policy,
        "treatment": option.candidate.treatment.expanded,
        "rate": option.rate,
        "share": share,
        "accuracy": ends.get("accuracy", 1 / run.task.width),
        "loss": ends.get("loss"),
        "flops": record.result["train_flops"] if record else flops(run, shape_of(draw.data), draw.examples),
    }


@dataclass(frozen=True)
class Draw:
    """One draw of a cell: its data and task, its source, and what is done with it."""

    data: DataSet
    task: Task
    net: str
    source: Weights
    seed: int
    options: tuple[Option, ...]

    @classmethod
    def of(cls, bench: Bench, cell: Cell, seed: int) -> "Draw":
        """The draw of this seed."""
        data, learnt = task(bench, cell, seed)
        net, shape = ORIGINS[cell.origin].net, data.images.shape[1:]
        depth = len(layers(build(net, shape, 2, 0), torch.zeros(1, *shape)))
        found = options(candidates(GROUPS.get(net, (1,) * depth)))
        return cls(data, learnt, net, weights(bench, cell.origin), seed, found)

    def asking(self, bench: Bench, cell: Cell, known: Experience = NONE) -> Asking:
        """What `layerwise advise` would be asked here, with such experience."""
        content = bench.shelf.weights(self.source.digest)
        return Asking(
            self.net, content, cell.origin, self.data, self.task, "block", bench.shelf, Means(), Several(), self.seed,
            known,
        )  # fmt: skip

    @property
    def examples(self) -> int:
        """Training images."""
        return len(self.task.classes) * (self.task.shots or 0)

    @property
    def probe(self) -> Option:
        """The linear probe that is the head of the net whose gradients are taken."""
        return next(one for one in self.options if one.candidate.policy == "linear probe" and one.rate == RATES[1])

    def run(self, option: Option, rates: tuple[float, ...] = (), share: float = 1.0) -> Run:
        """The run that carries an option out on the whole training set, with all steps or with a share of them."""
        how, treatment = recipes(option, self.examples, rates, share), option.candidate.treatment
        source = self.source if treatment.needs_source else None
        return Run(self.net, self.task, treatment, source, how, self.seed, draw=1)

    def rates(self, bench: Bench) -> tuple[float, ...]:
        """Rates per layer by the gradient on the training set, with the linear probe for a head."""
        shape = self.data.images.shape[1:]
        net = build(self.net, shape, self.task.outputs, 0)
        net.load_state_dict(restore(bench.shelf, key(self.run(self.probe))).weights)
        found = layers(net, torch.zeros(1, *shape))
        return rates_of(relative_gradients(net, found, feed(self.task, self.data, self.net)))


def scored(searched: pd.DataFrame, advised: pd.DataFrame, fewest: int = 5) -> str:
    """The regret of advice and of what would have been done without it, as tables in Markdown.

    Cells of fewer samples a class are in the second table alone.
    """
    few = set(searched.loc[searched["shots"] < fewest, "cell"])
    enough, counted = (table[~table["cell"].isin(few)] for table in (searched, advised))
    there = enough.merge(counted[DRAW], "inner", DRAW)
    choices = {"**advice**": counted} | {policy: fixed(there, policy) for policy in FIXED}
    choices |= {BY_SCORE.format(name): following(there, counted, name) for name in FROM_FEATURES}
    choices |= {"the best of each cell, in hindsight": hindsight(there)}
    lines = ["| choice | mean regret | 95 % | worst cell | worst draw |", "|---|---|---|---|---|"]
    regrets = {name: regret(there, chosen) for name, chosen in choices.items()}
    for name, found in regrets.items():
        low, high = interval(found.by_draw)
        lines.append(
            f"| {name} | {found.mean:.2f} | {low:.2f} to {high:.2f} | {found.worst:.1f} ({found.worst_cell}) | "
            f"{found.by_draw.max():.1f} |"
        )
    told, *others = (regrets[name] for name in ("**advice**", *FIXED))
    honest = coverage(there, counted, float(counted["level"].iloc[0]))
    lines += ["", *_each(searched, advised), "", _told(honest, counted)]
    lines += ["", by_confidence(told, counted), "", "| bar | wanted | found | met |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.wanted} | {one.found} | {'yes' if one.met else 'no'} |" for one in
              bars(told, others, float(counted["share"].max()), honest)]  # fmt: skip
    return "\n".join(lines)


def following(searched: pd.DataFrame, advised: pd.DataFrame, score: str) -> pd.DataFrame:
    """What a single score of the layers would have chosen, at the one rate that is the best over all."""
    column = BY_SCORE.format(score)
    policies = advised[column].fillna("fine-tune") if column in advised else "fine-tune"
    named = advised.assign(policy=policies)
    rows = named[[*DRAW, "policy"]].merge(searched, "left", [*DRAW, "policy"])
    means = rows.groupby(["cell", "rate"])["accuracy"].mean().groupby("rate").mean()
    return rows[rows["rate"] == means.idxmax()]


def _each(searched: pd.DataFrame, advised: pd.DataFrame) -> list[str]:
    lines = ["| cell | draws | best option | its accuracy | advice | regret | cost |", "|---|---|---|---|---|---|---|"]
    for cell, told in advised.groupby("cell", sort=False):
        rows = searched[searched["cell"] == cell].merge(told[DRAW], "inner", DRAW)
        found = regret(rows, told)
        means = rows.groupby(OPTION)["accuracy"].mean()
        policy, _, rate = means.idxmax()
        often = told["policy"].value_counts()
        lines.append(
            f"| {cell} | {len(told)} | {policy}, {rate:g} | {100 * means.max():.1f} | {often.index[0]} "
            f"({often.iloc[0]} of {len(told)}) | {found.mean:+.2f} | {told['share'].mean():.1%} |"
        )
    return lines


def _told(honest: Coverage, advised: pd.DataFrame) -> str:
    tested = "" if honest.p is None else f" (p = {honest.p:.2f} that they are honest, over cells)"
    return (
        f"{honest.draws} draws; advice spent {advised['share'].mean():.1%} of the exhaustive search on average and "
        f"{advised['share'].max():.1%} at most. Its {honest.wanted:.0%} intervals held the accuracy that was got in "
        f"{honest.share:.1%}{tested}."
    )


if __name__ == "__main__":
    main()
