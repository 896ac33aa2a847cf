"""Every config is a recipe in which nothing is idle, misnamed or clever."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigWorkflow
from monai.bundle.config_item import ComponentLocator, ConfigComponent, ConfigExpression

from bundle.skull_implant.commands.overrides import flags, names_a_key, refuse_unknown_overrides
from tests.end_to_end import ROOT, untrained_model

CONFIGS = ROOT / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
WHOLE = ("train.yaml", "inference.yaml")
OVERLAYS = [name for name in NAMES if name not in WHOLE]
# What MONAI itself or MONAI Label reads by name.
ENTRY_POINTS = {
    "imports",
    "initialize",
    "training",
    "run",
    "finalize",
    "evaluating",
    "finetuning",
    "site_finetuning",
    "table_fitting",
    "comparing",
    "training_unet",
    "drawing",
    "displayable_configs",
    "save_execute_config",
    "is_not_rank0",
}
LOCATOR = ComponentLocator()


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / name).read_text()))


def leaves(config: Any) -> Iterator[Any]:
    """Every value that is neither a mapping nor a list."""
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from leaves(value)
    else:
        yield config


def components(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        config = list(config.values())
    for value in config if isinstance(config, list) else []:
        yield from components(value)


def expressions(config: Any) -> list[str]:
    return [leaf for leaf in leaves(config) if isinstance(leaf, str) and leaf.startswith("$")]


def references(config: Any) -> set[str]:
    """Ids that a config refers to, `a::b` as `a#b`."""
    texts = [leaf.replace("::", "#") for leaf in leaves(config) if isinstance(leaf, str)]
    return {found for text in texts if text.startswith(("@", "$")) for found in re.findall(r"@([\w#]+)", text)}


def unread_keys(config: dict[str, Any], read: set[str], above: str = "") -> list[str]:
    """Keys of the plain mappings in a config that no reference leads to; components read all of their own keys."""
    found = []
    for key, value in config.items():
        name = f"{above}{key}"
        if name in ENTRY_POINTS or name in read:
            continue
        if isinstance(value, dict) and "_target_" not in value:
            found += unread_keys(value, read, f"{name}#")
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_a_mapping_with_a_first_line_that_says_what_it_is(name: str) -> None:
    assert load(name)
    assert (CONFIGS / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_every_target_exists_and_knows_its_arguments(name: str) -> None:
    for config in components(load(name)):
        target: Any = locate(ConfigComponent(config, locator=LOCATOR).resolve_module_name())
        assert callable(target), config["_target_"]
        parameters = inspect.signature(target).parameters
        given = {key for key in config if not re.fullmatch(r"_\w+_", key)}
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            assert given <= set(parameters), config["_target_"]
        needed = {
            key
            for key, each in parameters.items()
            if each.default is inspect.Parameter.empty and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        }
        assert needed <= given, config["_target_"]


@pytest.mark.parametrize("name", NAMES)
def test_every_import_is_of_one_module_that_exists(name: str) -> None:
    statements = [each for each in expressions(load(name)) if "import " in each]
    for statement in statements:
        match = re.fullmatch(r"\$import ([\w.]+)(?: as (\w+))?", statement)
        assert match, statement
        module, alias = match.groups()
        importlib.import_module(module)
        assert alias or "." not in module, f"MONAI drops a dotted import without a name: {statement}"


@pytest.mark.parametrize("name", NAMES)
def test_every_import_is_used(name: str) -> None:
    imports = [each.split()[-1] for each in expressions(load(name)) if "import " in each]
    calls = [each for each in expressions(load(name)) if "import " not in each]

    assert [each for each in imports if not any(re.search(rf"\b{each}\.", call) for call in calls)] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_expression_is_one_short_call_or_join(name: str) -> None:
    for expression in expressions(load(name)):
        assert len(expression) <= 80, expression
        if not ConfigExpression.is_import_statement(expression):
            tree = ast.parse(re.sub(r"@[\w#:]+", "value", expression[1:]), mode="eval")
            idle = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda | ast.IfExp | ast.comprehension)]
            assert idle == [], expression


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_is_read(name: str) -> None:
    config = load(name)

    assert unread_keys(config, references(config)) == []


@pytest.mark.parametrize("name", WHOLE)
def test_every_reference_leads_to_a_key(name: str) -> None:
    config = load(name)

    assert [each for each in references(config) if not names_a_key(each, config)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_names_only_keys_of_train_yaml_or_reads_its_own(name: str) -> None:
    base, overlay = load("train.yaml"), load(name)
    if name == "site.yaml":
        base |= load("finetune.yaml")
    own = {key: value for key, value in overlay.items() if not names_a_key(key, base)}

    assert unread_keys(own, references(overlay)) == []
    if not overlay.keys() & {
        "evaluating",
        "finetuning",
        "site_finetuning",
        "comparing",
        "training_unet",
        "hole_training",
        "facial_training",
    }:
        assert own == {}
    merged = {**base, **overlay}
    assert [each for each in references(merged) if not names_a_key(each, merged)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_training_checks_what_it_needs_before_it_runs(name: str) -> None:
    config = load(name)
    lists = [value for value in config.values() if isinstance(value, list)]
    works = ("trainer.run)", "trainer.run()", "@chosen_device))")
    for steps in (each for each in lists if any(str(step).endswith(works) for step in each)):
        if steps is config.get("site_finetuning"):
            continue  # on the server, which made dataset and model itself
        before = steps[: next(place for place, step in enumerate(steps) if ".run" in step)]
        assert "$overrides.refuse_unknown_overrides()" in before
        assert "$errors.exit_if_refused(datalist.check_dataset, @dataset_dir)" in before
        assert any(str(step).startswith("$errors.exit_if_refused(stages.check_targets, @output_dir") for step in before)
        if "start_model" in config:
            assert "$errors.exit_if_refused(weights.check_completer, @start_model)" in before


@pytest.mark.parametrize("name", NAMES)
def test_what_joins_other_processes_leaves_them_at_its_end(name: str) -> None:
    for key, steps in load(name).items():
        if isinstance(steps, list) and any("$processes." in str(step) for step in steps):
            assert "$processes.join(@chosen_device)" in steps[:-1], key
            assert steps[-1] == "$processes.leave()", key


@pytest.mark.parametrize("key", ["dataset_dir", "output_dir", "model_file", "device"])
@pytest.mark.parametrize("name", WHOLE)
def test_every_workflow_honors_the_four_common_keys(name: str, key: str) -> None:
    assert key in load(name)


def test_inference_honors_the_settings_of_the_command_line() -> None:
    import scripts.complete

    flags_of_command = set(inspect.signature(scripts.complete.complete).parameters) - {"input"}

    config = load("inference.yaml")
    assert flags_of_command <= set(config)
    (reading,) = [each for each in config["preprocessing"]["transforms"] if each["_target_"].endswith("ReadCased")]
    assert (reading["series_number"], config["options"]["series_number"]) == (
        "$@options.series_number",
        "@series_number",
    )


def test_inference_and_command_line_have_the_same_defaults() -> None:
    import scripts.complete

    config = load("inference.yaml")
    defaults = {key: each.default for key, each in inspect.signature(scripts.complete.complete).parameters.items()}

    for key in ("gamma", "defect_class", "threshold_hu", "keep_decoded", "overwrite"):
        assert config[key] == defaults[key]
        assert type(config[key]) is type(defaults[key])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monai_finds_every_property_that_it_requires_for_training(tiny_dataset: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        [str(CONFIGS / name) for name in ("train.yaml", "smoke.yaml")],
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(tiny_dataset),
        output_dir=str(tmp_path),
    )
    workflow.initialize()

    assert workflow.check_properties() == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monai_finds_every_property_that_it_requires_for_inference(tmp_path: Path) -> None:
    model = untrained_model(tmp_path / "model.pt")
    workflow = ConfigWorkflow(
        str(CONFIGS / "inference.yaml"), workflow_type="infer", logging_file=False, model_file=str(model)
    )
    workflow.initialize()

    assert workflow.check_properties() == []


def test_inference_stands_alone() -> None:
    assert [leaf for leaf in leaves(load("inference.yaml")) if isinstance(leaf, str) and leaf.startswith("%")] == []


def test_metadata_has_every_field_that_monai_and_the_model_zoo_read() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    fields = (
        "schema version changelog monai_version pytorch_version numpy_version required_packages_version name task "
        "description authors copyright data_source data_type image_classes label_classes pred_classes eval_metrics "
        "intended_use references network_data_format"
    )

    assert [each for each in fields.split() if each not in metadata] == []
    assert list(metadata["network_data_format"]["inputs"]) == ["image"]
    assert list(metadata["network_data_format"]["outputs"]) == ["pred"]


def test_metadata_names_the_shipped_grid() -> None:
    formats = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]
    size = load("compact.yaml")["spatial_size"]

    assert formats["inputs"]["image"]["spatial_shape"] == size
    assert formats["outputs"]["pred"]["spatial_shape"] == size


def test_the_version_heads_both_changelogs() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert next(iter(metadata["changelog"])) == metadata["version"]
    assert headings[0] == metadata["version"]
    assert headings == list(metadata["changelog"])


def test_metadata_and_requirements_pin_the_same_versions() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))

    assert metadata["monai_version"] == pins["monai"]
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    packages = metadata["required_packages_version"]
    assert packages == {name: pins[name] for name in packages}


PROGRAM = "/somewhere/monai/bundle/__main__.py"
TRAIN = ("--config_file", "['configs/train.yaml','configs/smoke.yaml']")


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    "words",
    [
        ("--epocs", "2"),
        ("--epocs=2",),
        ("-epocs", "2"),
        ("--resum",),
        ("--+epocs", "2"),
        ("--trian#trainer", "2"),
        ("--trian::trainer::max_epochs", "2"),
        ("--train#trianer", "2"),
        ("--stage1#optimiser::lr", "2"),
        ("--seed#0", "2"),
        ("--train::handlers::7", "2"),
    ],
)
def test_a_mistyped_override_ends_with_2_and_one_line(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        refuse_unknown_overrides([PROGRAM, "run", "training", *TRAIN, "--seed", "1", *words])

    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"monai.bundle run: no key --{words[0].lstrip('-').partition('=')[0]} in the config; known: "
    )
    assert error.count("\n") == 1


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--dataset_dir", "a b", "--output_dir=c", "--noresume", "--binary"),
        ("--dataset-dir", "a"),
        ("--+spatial_size", "[32,32,32]"),
        ("--train#trainer#max_epochs", "3"),
        ("--train::dataset::data", "[]"),
        ("--train#handlers#0#scheduler", "None"),
        ("--learning_rate", "-1"),
        ("--run_id", "training", "--init_id", "initialize", "--logging_file", "False", "--meta_file", "m.json"),
    ],
)
def test_a_right_override_passes(words: tuple[str, ...]) -> None:
    refuse_unknown_overrides([PROGRAM, "run", *TRAIN, *words])


@pytest.mark.usefixtures("at_root")
def test_an_arguments_file_is_checked_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "args.json"
    path.write_text('{"config_file": ["configs/train.yaml", "configs/smoke.yaml"], "run_id": "training", "sede": 1}')

    with pytest.raises(SystemExit):
        refuse_unknown_overrides([PROGRAM, "run", "--args_file", str(path)])

    assert capsys.readouterr().err == "monai.bundle run: no key --sede in the config; known: seed\n"


@pytest.mark.parametrize(
    "words",
    [
        ["monailabel", "start_server", "--app", "monaibundle"],
        ["/usr/bin/pytest", "--epocs", "3"],
        [PROGRAM, "ckpt_export", "--net_id", "network_def"],
    ],
)
def test_other_programs_are_none_of_its_business(words: list[str]) -> None:
    refuse_unknown_overrides(words)


def test_flags_are_read_as_fire_reads_them() -> None:
    def fire_reads(*_: object, **named: object) -> None:
        found.append(named)

    import fire

    words = ["a", "--b", "1", "--c-d=x=y", "--e", "-5", "--nof", "-g", "[1,2]", "--h#i::j", "text", "--k"]
    found: list[dict[str, object]] = []
    reads: Callable[..., None] = fire_reads
    fire.Fire(reads, command=words)

    assert flags(words) == found[0]
    assert found[0] == {"b": 1, "c_d": "x=y", "e": -5, "f": False, "g": [1, 2], "h#i::j": "text", "k": True}


@pytest.mark.parametrize(("name", "entry"), [("train.yaml", "training"), ("inference.yaml", "run")])
def test_overrides_are_checked_before_any_work(name: str, entry: str) -> None:
    assert load(name)[entry][0] == "$overrides.refuse_unknown_overrides()"
