"""Quality of a sentence encoder that is adapted to the chorus electronics shop without judgments.

python -m benchmarks.quality.chorus CHORUS --model sentence-transformers/all-MiniLM-L6-v2 --seeds 3

All 74 judged queries are test queries. A seed draws the pseudo-queries and the training batches; BM25 and the published encoder do
not depend on the seed. Finished seeds are stored in --work, so that a second call resumes an interrupted call.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd_of_runs, show_scores, show_targets
from catalog import chorus
from catalog.item_pairs import PSEUDO_QUERY_WEIGHT
from gavel.workspace.console import Stages
from models.config.distillation import LOT_TOKENS, DistillationConfig
from models.towers.published import published_towers
from models.training.adaptation import distil_towers
from processing.embedding.job import embed
from processing.evaluation.job import HYBRID, SEMANTIC, Plan, evaluate_to_folder
from processing.training.step_cache import StepCache

MEASURES = ("recall@10", "recall@50", "ndcg@10", "mrr")
DEPTH = 200
BARS = {(SEMANTIC, "recall@50"): 0.80, (HYBRID, "recall@50"): 0.90, (HYBRID, "ndcg@10"): 0.77}


def run_seed(data: Path, model: str, seed: int, work: Path, *, steps: int, zero_shot: bool) -> dict[str, Any]:
    """Prepare the catalogue, adapt the encoder, embed every product, and measure all judged queries.

    Args:
        data: folder of the shop's data.
        model: preset, hub name or folder of a sentence encoder.
        seed: seed of the pseudo-queries and the training.
        work: folder for catalogue, towers, embeddings and report.
        steps: number of steps of gradient descent.
        zero_shot: True measures the published encoder, too; its quality is the same for every seed.

    Returns:
        "tower_id"; "quality": system -> measure -> value; "comparisons" as in Evaluation.to_dict().
    """
    source = chorus.prepare(data, work / f"catalog-{seed}", fold=None, seed=seed)
    tower = replace(published_towers(model), max_length=LOT_TOKENS)
    settings = DistillationConfig(steps=steps, min_weight=PSEUDO_QUERY_WEIGHT, seed=seed)
    with Stages() as stages:
        distilled = distil_towers(source, tower, settings, work / "towers", stages)
        release = embed(source.item_files("test"), distilled.tower_folder, work / "embeddings", progress=stages("embed")).release_id
        plan = Plan(
            source, work / "embeddings" / release, distilled.tower_folder, depth=DEPTH, zero_shot=model if zero_shot else ""
        )
        evaluation = evaluate_to_folder(plan, work / f"report-{seed}", phases=stages).to_dict()
    quality = {system: {m: result["quality"][m] for m in MEASURES} for system, result in evaluation["results"].items()}
    return {"tower_id": distilled.tower_folder.name, "quality": quality, "comparisons": evaluation["comparisons"]}


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the shop's data, as chorus publishes it.")],
    model: Annotated[str, typer.Option(help="Sentence encoder: preset, hub name or folder.")] = "minilm",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient descent.")] = 200,
    work: Annotated[Path, typer.Option(help="Folder for catalogues, towers and reports.")] = Path(".gavel/chorus"),
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print mean ± standard deviation over the seeds for every system, and the targets; exit 1 if a target is missed."""
    machine = describe_machine()
    work.mkdir(parents=True, exist_ok=True)
    step_cache, runs = StepCache(work / "ledger.json"), []
    for number in range(seed, seed + seeds):
        first = number == seed
        key = repr((str(data.resolve()), model, LOT_TOKENS, steps, first))
        result = step_cache.step(
            f"seed {number}",
            key,
            partial(run_seed, data, model, number, work, steps=steps, zero_shot=first),
        )
        runs.append(result.value)
    table = mean_and_sd_of_runs([run["quality"] for run in runs])
    passed = {f"{system} {measure}": table[system][measure][0] >= bar for (system, measure), bar in BARS.items()}

    def show() -> None:
        show_scores(f"chorus: all judged queries, {seeds} seeds", "system", table)
        show_targets({f"{system} {measure} >= {bar}": passed[f"{system} {measure}"] for (system, measure), bar in BARS.items()})

    QualityResult(machine=machine, values={"seeds": runs, "mean_and_sd": table, "bars": passed}).report(as_json, show)
    raise typer.Exit(0 if all(passed.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
