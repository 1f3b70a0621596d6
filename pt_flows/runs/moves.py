"""The moves from version 0.1 to 0.2: keys of configurations, names in checkpoints.

In 0.1 a method had the arguments of its networks and optimizers. In 0.2 its players have them:

    generator, generator_optimizer, lr_decay, ema_decay        generator.{network, optimizer, lr_schedule, ema_decay}
    critic, critic_optimizer, lr_decay, num_critic_steps       critic.{network, optimizer, lr_schedule, steps}
    energy, optimizer, lr_decay, warmup, clip_norm, ema_decay  energy.{network, optimizer, lr_schedule, ...}
    step_size, step_size_decay, step_size_boundaries, ...      step_size.{value, decay, boundaries, factors}

ODEGAN integrates both networks itself and keeps its arguments, apart from the step size.
"""

import copy
from collections.abc import Collection, Iterable
from typing import Any

from pt_flows.errors import UserError
from pt_flows.formats import CHECKPOINT_FORMAT

PLAYERS: dict[str, dict[str, str]] = {
    "generator": {"generator": "network", "generator_optimizer": "optimizer"},
    "critic": {"critic": "network", "critic_optimizer": "optimizer", "num_critic_steps": "steps"},
    "energy": {"energy": "network", "optimizer": "optimizer", "clip_norm": "clip_norm"},
}
"""Arguments of 0.1 by the player that has them now, and their names there."""
RATES = {"lr_decay": "decay", "warmup": "warmup"}
"""Arguments of 0.1 in the `lr_schedule` of every player."""
SCHEDULES = {
    "step_size": {
        "step_size_decay": "decay",
        "step_size_boundaries": "boundaries",
        "step_size_factors": "factors",
    },
    "persistence": {"persistence_decay": "decay"},
}
"""Arguments of 0.1 in the schedule that an argument is now."""
DEFAULTS = {"step_size": 1.0, "persistence": 5}
"""Defaults of 0.1, for configurations that set the decay alone."""
CONSTANT = ("constant", [], [1.0])
ENERGY_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 5e-4, "betas": [0.0, 0.9]}}
"""The default optimizer of an energy in 0.1, which converted configurations state."""
ALTERNATING = ("generator", "critic")
METHODS: dict[str, tuple[str, ...]] = dict.fromkeys(("W1FE", "W2FE", "JSFlow", "WGANGP"), ALTERNATING)
METHODS |= {"MinibatchW2FE": ("generator",), "ODEGAN": ()} | dict.fromkeys(("DAEBM", "ImprovedCD", "PCD"), ("energy",))
"""The methods of 0.1 and their players, the averaged one first. ODEGAN has networks without players."""
STAGES = {"euler": 1, "heun": 2, "rk4": 4, "bogacki_shampine": 3}

# ------------------------------------------------------------------------------------------------------ configurations


def old_keys(config: dict[str, Any]) -> list[str]:
    """Return the dotted keys of a configuration that version 0.2 no longer has, in their order.

    Args:
        config: A configuration, as YAML reads it.
    """
    model = config.get("model")
    arguments = model.get("init_args") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(arguments, dict):
        return []
    moved = {name for names in SCHEDULES.values() for name in names}
    if class_name(model) != "ODEGAN":
        moved |= {"ema_decay", *RATES} | {name for names in PLAYERS.values() for name in names} - PLAYERS.keys()
        moved |= {name for name in PLAYERS if _is_network(arguments.get(name))}
    return [f"model.{name}" for name in arguments if name in moved]


def upgraded_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of 0.2 that trains like one of 0.1. A configuration without old keys stays the same.

    Args:
        config: A configuration, as YAML reads it. It is not changed.

    Raises:
        UserError: The configuration does not determine the players of a key.
    """
    config = copy.deepcopy(config)
    if old_keys(config):
        model = config["model"]
        model["init_args"] = _upgraded_arguments(class_name(model), model["init_args"])
    return config


def places_of(key: str, known: Collection[str]) -> list[str]:
    """Return the keys of 0.2 for a dotted key of 0.1; none if it is no such key.

    Args:
        key: A key such as "model.lr_decay".
        known: Keys of 0.2, such as "model.critic", which determine the players of the method.

    Example:
        >>> places_of("model.lr_decay", ["model.generator", "model.critic"])
        ['model.generator.lr_schedule.decay', 'model.critic.lr_schedule.decay']
        >>> places_of("model.critic_optimizer.lr", ["model.generator", "model.critic"])
        ['model.critic.optimizer.lr']
    """
    section, _, path = key.partition(".")
    name, dot, rest = path.partition(".")
    beside = f"{section}.{name}.{rest.partition('.')[0]}"
    if rest and any(other == beside or other.startswith(f"{beside}.") for other in known):
        return []  # the beginning is of 0.2, so the mistake is further in
    found = [f"{at}.{names[name]}" for at, names in (PLAYERS | SCHEDULES).items() if name in names]
    found += [f"{player}.lr_schedule.{RATES[name]}" for player in PLAYERS if name in RATES]
    found += [f"{player}.ema_decay" for player in ("generator", "energy") if name == "ema_decay"]
    return [
        f"model.{place}{dot}{rest}" for place in found if section == "model" and f"model.{place.split('.')[0]}" in known
    ]


def _upgraded_arguments(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    players: dict[str, Any] = {}
    rest = dict(arguments)
    if method != "ODEGAN":
        lr_schedule = {new: rest.pop(old) for old, new in RATES.items() if old in rest}
        names = _players(method, arguments)
        for player in names:
            section = {new: rest.pop(old) for old, new in PLAYERS[player].items() if old in rest}
            if player == "energy" and "network" in section:
                section.setdefault("optimizer", copy.deepcopy(ENERGY_ADAM))
            if lr_schedule:
                section["lr_schedule"] = dict(lr_schedule)
            if player == names[0] and "ema_decay" in rest:
                section["ema_decay"] = rest.pop("ema_decay")
            order = ("network", "optimizer", "lr_schedule", "steps", "clip_norm", "ema_decay")
            players |= {player: {key: section[key] for key in order if key in section}} if section else {}
    for name, keys in SCHEDULES.items():
        schedule = {new: rest.pop(old) for old, new in keys.items() if old in rest}
        if not schedule:
            continue
        if name not in rest and "generator" not in arguments:
            key = next(old for old in keys if old in arguments)
            raise UserError(f"model.{key}: expected model.{name} beside it, got none. Add it")
        value = rest.get(name, DEFAULTS[name])
        changing = {key: v for key, v in schedule.items() if v not in CONSTANT}
        rest[name] = {"value": value} | changing if changing else value
    return players | rest


def _players(method: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    """Return the players of a method of 0.1, the averaged one first, by its name or else by its arguments."""
    found = METHODS.get(method, ())
    if not found and {"warmup", *PLAYERS["energy"]} & arguments.keys():
        found = ("energy",)
    elif not found and PLAYERS["critic"].keys() & arguments.keys():
        found = ALTERNATING
    elif not found and PLAYERS["generator"].keys() & arguments.keys():
        found = ("generator",)
    if not found:
        raise UserError("model.class_path: expected the class of the method, got none. Add it")
    return found


def class_name(model: dict[str, Any]) -> str:
    """Return the name of the class in the section `model` of a configuration."""
    return str(model.get("class_path", "")).rpartition(".")[2]


def _is_network(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "class_path" in value)


# --------------------------------------------------------------------------------------------------------- checkpoints


def upgraded_checkpoint(content: dict[str, Any], batch_size: int = 0) -> dict[str, Any]:
    """Return the content of a checkpoint of 0.1 in the format of 0.2.

    Args:
        content: Content of the file. It is not changed.
        batch_size: Batch size of the data, which the checkpoint does not record. Without it the count of images is 0.
    """
    hyper, record = content.get("hyper_parameters", {}), content["pt_flows"]
    images_seen = record["iteration"] * _minibatches(hyper) * batch_size
    described, left_out = _upgraded_description(hyper, record.get("left_out", []))
    kept = {"format": CHECKPOINT_FORMAT, "seed": record.get("seed"), "iteration": record["iteration"]}
    return content | {
        "state_dict": upgraded_state(content["state_dict"], images_seen),
        "optimizer_states": _upgraded_optimizers(content.get("optimizer_states", [])),
        "lr_schedulers": [],  # rates are functions of the iteration now
        "hyper_parameters": described,
        "pt_flows": kept | {"left_out": left_out},
    }


def upgraded_state(state: dict[str, Any], images_seen: int = 0) -> dict[str, Any]:
    """Return the state dict of a method of 0.1 with the names of 0.2.

    Args:
        state: Tensors and extra states by name.
        images_seen: Real samples consumed so far.
    """
    players = [name for name in PLAYERS if any(key.startswith(f"{name}.") for key in state)]
    prefixes = {f"{name}.": f"{name}.network." for name in players}
    prefixes |= {"ema.": f"{players[0]}.ema."} if players else {}
    new: dict[str, Any] = {}
    for key, value in state.items():
        old = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
        new[prefixes.get(old, "") + key.removeprefix(old)] = value
    if "_extra_state" in state:
        extra = dict(state["_extra_state"])
        cost = {"seconds": extra.pop("seconds"), "images_seen": images_seen}
        cost["evaluations"] = extra.pop("evaluations", {})
        moves_data = extra.pop("moves_data", False)
        new["_extra_state"] = extra | {"cost": cost}
        if "generator" in players:
            new["generator._extra_state"] = {"moves_data": moves_data}
    return new


def _upgraded_optimizers(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one optimizer for each player, generator first. ODEGAN had one with a group for each player."""
    groups = states[0]["param_groups"] if len(states) == 1 else []
    if [group.get("name") for group in groups] != ["D", "G"]:
        return states
    new = []
    for group in reversed(groups):
        places = {old: new for new, old in enumerate(group["params"])}
        kept = {key: value for key, value in group.items() if key not in ("name", "initial_lr")}
        state = {places[old]: value for old, value in states[0]["state"].items() if old in places}
        new.append({"state": state, "param_groups": [kept | {"params": list(places.values())}]})
    return new


def _upgraded_description(hyper: dict[str, Any], left_out: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the described arguments of a method, and the names of the others: a player lacks its whole section."""
    how = {key: value for key, value in hyper.items() if key.startswith("_")}
    arguments = {key: value for key, value in hyper.items() if key not in how}
    model = {"class_path": how.get("_class_path", ""), "init_args": arguments}
    places = {old: (player, new) for player, names in PLAYERS.items() for old, new in names.items()}
    lost = []
    for name in left_out:
        player, place = places.get(name, (name, "network"))
        lost.append(name if class_name(model) == "ODEGAN" or place == "network" else f"{player}.{place}")
    described = upgraded_config({"model": model})["model"]["init_args"] if arguments else {}
    return how | {key: value for key, value in described.items() if key not in lost}, lost


def _minibatches(hyper: dict[str, Any]) -> int:
    """Return the number of minibatches of one iteration."""
    if class_name({"class_path": hyper.get("_class_path", "")}) == "ODEGAN":
        return STAGES[hyper.get("integrator", "rk4")] if hyper.get("stage_batches") == "fresh" else 1
    return int(hyper.get("num_critic_steps", 5 if "critic" in hyper else 1))
