"""Studies: the file, the plan, what is run and what is reused, the record and the table of claims."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pt_flows.errors import UserError
from pt_flows.studies.study_file import Budget, Measurement, Tuning, Wish, read_study

TWO_ARMS = """
arms:
  GAN: {config: a.yaml, changes: {model.critic.steps: 3}, tune: {space: {model.step_size: [1, 2]}}}
  "W1-FE, K = 5": {config: [a.yaml, b.yaml], sampler: {class_path: MHGAN}, changes: {run.wandb: offline}}
changes: {run.wandb: disabled}
data: c.yaml
seeds: 0..2
budget: {evaluations: 2e6}
tune: {trials: 4, budget: {iterations: 30}}
metrics: [w2_512, high_quality]
evaluate: {n: 500, split: test}
verdicts: [{better: "W1-FE, K = 5", than: GAN}, {better: GAN, than: "W1-FE, K = 5", metric: high_quality}]
claims:
  - {paper: A paper, text: It is faster., verdicts: {better: "W1-FE, K = 5", than: GAN}}
"""


def written(text: str, folder: Path | None = None) -> Path:
    folder = folder or Path()
    for name in "abc":
        (folder / f"{name}.yaml").write_text("seed_everything: 0\n")
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_a_study_file_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    found = read_study(written(TWO_ARMS, tmp_path))
    gan, flow = found.arms.values()
    assert gan.words == [
        "--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "c.yaml"),
        "--run.wandb", "disabled", "--model.critic.steps", "3",
    ]  # fmt: skip
    assert flow.words[-2:] == ["--run.wandb", "offline"]  # the changes of an arm replace those of all
    assert (gan.space, flow.space, flow.sampler) == ({"model.step_size": [1, 2]}, None, {"class_path": "MHGAN"})
    assert found.seeds == (0, 1, 2)
    assert found.budget == Budget("evaluations", 2e6)
    assert found.tuning == Tuning(4, 30, (1000,), None)
    assert found.measurement == Measurement(500, "test", 1)
    assert found.wishes[0] == Wish("W1-FE, K = 5", "GAN", "w2_512")
    assert found.wishes[1].metric == "high_quality"
    assert len(found.wishes) == 2  # a verdict that is wanted twice is judged once
    assert (found.title, found.claims[0].paper) == ("study", "A paper")
    assert found.claims[0].wishes == found.wishes[:1]


def without(key: str) -> str:
    tree = yaml.safe_load(TWO_ARMS)
    del tree[key]
    return yaml.safe_dump(tree, sort_keys=False)


def changed(**values: Any) -> str:
    return yaml.safe_dump(yaml.safe_load(TWO_ARMS) | values, sort_keys=False)


MISTAKES = {
    "": "expected arms and seeds, got an empty file",
    "[1]": "expected keys with values, got a sequence. Write, for example, seeds: 0..4",
    TWO_ARMS.replace("  GAN:", '  "W1-FE, K = 5":'): "arms.W1-FE, K = 5 once, got it in line",
    without("arms"): "arms: expected a value, got none",
    without("seeds"): "seeds: expected a value, got none",
    without("evaluate"): "evaluate: expected a number of samples, because the arm W1-FE, K = 5 has a sampler, got none",
    without("tune"): "tune: expected trials, because the arm GAN is tuned, got none",
    without("metrics"): "metrics: expected the numbers that verdicts are about, got none",
    changed(claims={"paper": "A", "text": "B"}): "claims.verdicts: expected a value, got none",
    changed(arm=1): "arm: expected one of the keys title, arms",
    changed(arms={"A": {"config": "a.yaml"}}): "arms: expected at least two arms, got 1",
    changed(arms={"A": {"config": "no.yaml"}}): "arms.A.config: expected a file, got no.yaml, which does not exist",
    changed(arms={"A": {"confg": "a.yaml"}}): "arms.A.confg: expected one of the keys config, changes, sampler, tune",
    changed(arms={"A": 3}): "arms.A: expected keys with values, got 3",
    changed(seeds="0..x"): "seeds: expected seeds such as 0..4",
    changed(seeds=[1, 1]): "seeds: expected seeds such as 0..4",
    changed(budget={"iterations": 2.5}): "budget.iterations: expected a whole number, got 2.5",
    changed(budget={"hours": 2}): "budget.hours: expected one of the keys iterations, evaluations, seconds",
    changed(budget={"seconds": 2, "iterations": 3}): "budget: expected one of iterations, evaluations, seconds",
    changed(budget={"seconds": -2}): "budget.seconds: expected a number above 0, got -2",
    changed(tune={"trials": 3, "budget": {"seconds": 3}}): "tune.budget: expected iterations, got seconds",
    changed(tune={"trials": True}): "tune.trials: expected a number above 0, got true",
    changed(evaluate={"n": 5, "split": "val"}): "evaluate.split: expected train or test, got val",
    changed(verdicts=[{"better": "GAN", "than": "Gan"}]): "verdicts.than: expected one of the arms GAN; W1-FE, K = 5",
    changed(verdicts=[{"better": "GAN", "than": "GAN"}]): "verdicts.than: expected another arm, got GAN",
    changed(verdicts=[{"better": "GAN", "than": "W1-FE, K = 5", "metric": "w1"}]): "verdicts.metric: expected one of",
    changed(changes={"seed_everything": 3}): "changes.seed_everything: expected other keys, got this one for GAN",
    changed(changes={"trainer.max_steps": 3}): "Use budget: {iterations: N}",
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.items(), ids=MISTAKES.values())
def test_mistakes_in_a_study_file_are_one_sentence_with_the_key(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_study(written(text))
    assert str(error.value).startswith("study.yaml: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
