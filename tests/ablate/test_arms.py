import re

import pytest

from rlagents.ablate.arms import LONGEST_NAME, arms_of, seeds_of, tags_of
from rlagents.errors import ConfigError


def names_and_overrides(
    arms: list[str] | None = None, vary: list[str] | None = None
) -> dict[str, list[str]]:
    return {arm.name: list(arm.overrides) for arm in arms_of(arms or [], vary or [])}


def test_without_anything_there_is_one_arm() -> None:
    assert names_and_overrides() == {"base": []}


def test_axes_make_the_product_in_the_order_they_were_given() -> None:
    made = names_and_overrides(vary=["learner.lr=1e-3,0.01", "algo.clip.high=0.2,0.28"])
    assert list(made.items()) == [
        ("lr=1e-3 high=0.2", ["learner.lr=1e-3", "algo.clip.high=0.2"]),
        ("lr=1e-3 high=0.28", ["learner.lr=1e-3", "algo.clip.high=0.28"]),
        ("lr=0.01 high=0.2", ["learner.lr=0.01", "algo.clip.high=0.2"]),
        ("lr=0.01 high=0.28", ["learner.lr=0.01", "algo.clip.high=0.28"]),
    ]


def test_named_arms_are_an_axis_too() -> None:
    made = names_and_overrides(
        ["plain: algo.name=grpo", "whole: algo.name=grpo_pp algo.updates=2"], ["learner.lr=1,2"]
    )
    assert list(made.items()) == [
        ("plain lr=1", ["algo.name=grpo", "learner.lr=1"]),
        ("plain lr=2", ["algo.name=grpo", "learner.lr=2"]),
        ("whole lr=1", ["algo.name=grpo_pp", "algo.updates=2", "learner.lr=1"]),
        ("whole lr=2", ["algo.name=grpo_pp", "algo.updates=2", "learner.lr=2"]),
    ]


@pytest.mark.parametrize(
    ("values", "split"),
    [
        ("1,2", ["1", "2"]),
        (" 1 , 2 ", ["1", "2"]),
        ("[0.9, 0.95],[0.8, 0.9]", ["[0.9, 0.95]", "[0.8, 0.9]"]),
        ("{low: 0.2, high: 0.3},{low: 0.1}", ["{low: 0.2, high: 0.3}", "{low: 0.1}"]),
        ("'a,b',\"c, d\",e f", ["'a,b'", '"c, d"', "e f"]),
        ("it's,a:b", ["it's", "a:b"]),
        ("true,null,~", ["true", "null", "~"]),
        ("rlagents/Lock-v0,m:Mine-v0", ["rlagents/Lock-v0", "m:Mine-v0"]),
        ("'',x", ["''", "x"]),
        ("'${learner.lr}'", ["'${learner.lr}'"]),
        ("only", ["only"]),
    ],
)
def test_values_split_where_a_yaml_list_does(values: str, split: list[str]) -> None:
    made = arms_of([], [f"env.kwargs.x={values}"])
    assert [arm.overrides for arm in made] == [(f"env.kwargs.x={value}",) for value in split]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("a:", []),
        ("a: k=1", ["k=1"]),
        ("a:k=1  l.m=2", ["k=1", "l.m=2"]),
        ("a: k=[1, 2] l={a: 1, b: 2}", ["k=[1, 2]", "l={a: 1, b: 2}"]),
        ("a: k='x y=z' l=\"it's b=c\" m=1", ["k='x y=z'", 'l="it\'s b=c"', "m=1"]),
        ("a: k=it's l='x'", ["k=it's", "l='x'"]),
        ("a: k=two words l=1", ["k=two words", "l=1"]),
        ("a: k= l=1", ["k=", "l=1"]),
        ("a: env.id=m:Mine-v0", ["env.id=m:Mine-v0"]),
        ("a: nonsense", ["nonsense"]),  # the loader says what is wrong with it
    ],
)
def test_settings_of_a_named_arm(text: str, overrides: list[str]) -> None:
    (arm,) = arms_of([text], [])
    assert (arm.name, list(arm.overrides)) == ("a", overrides)


def test_labels_say_as_much_of_a_key_as_tells_it_apart() -> None:
    (arm,) = arms_of([], ["learner.lr=1", "warm_start.lr=2", "algo.clip.low=3"])
    assert arm.name == "learner.lr=1 warm_start.lr=2 low=3"
    (arm,) = arms_of([], ["env.id='rlagents/Lock-v0'"])
    assert (arm.name, arm.folder) == ("id=rlagents/Lock-v0", "id=rlagents_Lock-v0")


def test_a_folder_is_one_component_and_never_hidden() -> None:
    for value in ("../..", "/etc", "a|b", ".", "$x", "a\\b", "ü"):
        (arm,) = arms_of([], [f"policy.system='{value}'"])
        assert re.fullmatch(r"[\w.=+,-]+", arm.folder) and not arm.folder.startswith(".")


@pytest.mark.parametrize(
    ("arms", "vary", "message"),
    [
        ([], ["learner.lr"], "--vary 'learner.lr': expected section.key=A,B"),
        ([], ["=1"], "--vary '=1': expected section.key=A,B"),
        ([], ["learner.lr="], "--vary learner.lr: expected at least one value, got none"),
        ([], ["learner.lr=1,,2"], "--vary learner.lr: not a list of YAML values"),
        ([], ["learner.lr=[1,2"], "--vary learner.lr: not a list of YAML values"),
        ([], ["learner.lr=1],[2"], "--vary learner.lr: "),
        ([], ["learner.lr=1 #x"], "--vary learner.lr: not a list of YAML values"),
        ([], ["learner.lr=1", "learner.lr=2"], "--vary learner.lr: given twice"),
        ([], ["learner.lr=1,1"], "arms 'lr=1' and 'lr=1': the same name twice"),
        (["a: k=1", "a: k=2"], [], "arms 'a' and 'a': the same name twice"),
        (["a b: k=1", "a/b: k=2"], [], "arms 'a b' and 'a/b': the same name twice"),
        (["k=1"], [], "--arm 'k=1': expected 'NAME: key=value ...' with a plain name"),
        (["../a: k=1"], [], "--arm '../a: k=1': expected 'NAME: key=value"),
        ([": k=1"], [], "--arm ': k=1': expected 'NAME: key=value"),
        (["tensorboard: k=1"], [], "--arm 'tensorboard': expected another name"),
        ([], ["policy.system=" + "x" * LONGEST_NAME], "expected a name of at most 120 characters"),
    ],
)
def test_what_cannot_be_read_is_one_line(arms: list[str], vary: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        arms_of(arms, vary)
    assert "\n" not in str(caught.value)


def test_seeds() -> None:
    assert seeds_of("0,1,2") == (0, 1, 2)
    assert seeds_of(" 7 ") == (7,)
    for text in ("", "a", "1,", "-1", "1.5", "0 1", "9" * 11, "²"):
        with pytest.raises(ConfigError, match="--seeds: expected whole numbers such as 0,1,2, got"):
            seeds_of(text)
    with pytest.raises(ConfigError, match="--seeds: expected different numbers, got '1,2,01'"):
        seeds_of("1,2,01")


def test_tags() -> None:
    assert tags_of(()) == ()
    assert tags_of(["policy/entropy, train/loss", "policy/kl,train/loss"]) == (
        "policy/entropy",
        "train/loss",
        "policy/kl",
    )
    for text in ("", "a,", "a,,b"):
        with pytest.raises(ConfigError, match="--report: expected tags such as policy/entropy, g"):
            tags_of(["train/loss", text])
