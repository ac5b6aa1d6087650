"""Option values: what is taken, what it becomes, what is refused."""

from __future__ import annotations

import pytest
from bnfold_cli import values
from bnfold_cli.invocation import parser_of
from bnfold_cli.values import InputSpec

from bnfold.errors import UsageError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", InputSpec(None, (1, 3, 224, 224), "float32")),
        ("1x7:int64", InputSpec(None, (1, 7), "int64")),
        ("image=2x3:uint8", InputSpec("image", (2, 3), "uint8")),
        ("5", InputSpec(None, (5,), "float32")),
    ],
)
def test_input_spec(text: str, spec: InputSpec) -> None:
    assert values.input_spec(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "x", "0x3", "1x", "1x-3", "1,3", "1x3:float", "=1x3", "a b=1x3", "1x3:", "99999x99999x99999", "1x٣"],
)
def test_input_specs_that_are_none(text: str) -> None:
    if text == "1x3:":
        assert values.input_spec(text).dtype == "float32"
        return
    with pytest.raises(UsageError) as caught:
        values.input_spec(text)
    assert caught.value.code == "BNF-U010"
    assert caught.value.fix


def test_a_dtype_close_to_one_is_suggested_and_not_assumed() -> None:
    with pytest.raises(UsageError, match="unknown dtype 'flaot32'") as caught:
        values.input_spec("1x3:flaot32")
    assert "float32" in caught.value.fix


def test_numbers() -> None:
    assert values.number("1/255") == 1 / 255
    assert values.number("-2.5e-3") == -0.0025
    assert values.number("1/0.5") == 2.0
    assert values.numbers("0.485,0.456,0.406") == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("text", ["nan", "inf", "1/0", "1e999", "", "a", "1/2/3", "1,,2"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.numbers(text)
    assert caught.value.code == "BNF-U010"


@pytest.mark.parametrize("text", ["0", "-1", "1,0"])
def test_numbers_that_must_be_positive(text: str) -> None:
    with pytest.raises(UsageError, match="not above 0"):
        values.positives(text)


def test_words_keep_the_order_and_lose_the_repeats() -> None:
    assert values.words(("onnx", "tflite"))("tflite, onnx,tflite") == ("tflite", "onnx")
    with pytest.raises(UsageError, match="'onx'") as caught:
        values.words(("onnx", "tflite"))("onx")
    assert caught.value.fix == "did you mean onnx?"


@pytest.mark.parametrize("text", ["0", "100", "1.5", "x", ""])
def test_whole_numbers_out_of_range(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.whole(1, 99)(text)
    assert caught.value.code == "BNF-U010"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--std", "0"], "--std 0"),
        (["--scale", "abc"], "--scale abc"),
        (["--to", "onnx,foo"], "--to onnx,foo"),
        (["--mean=1,,2"], "--mean 1,,2"),
        (["--opset", "x"], "--opset x"),
    ],
)
def test_a_value_that_is_refused_is_shown_with_its_option(arguments: list[str], where: str) -> None:
    parser = parser_of("convert")
    assert parser is not None
    with pytest.raises(UsageError) as caught:
        parser.parse(["net.pt", *arguments])
    assert (caught.value.code, caught.value.where) == ("BNF-U010", where)
