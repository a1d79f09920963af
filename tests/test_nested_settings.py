"""Settings in sections inside sections: defaults, flags, checks, old spellings, the reference."""

import dataclasses

import pytest
from test_docs import reference

from gptjax import config as configs
from gptjax import experiment, fields
from gptjax.errors import UserError
from gptjax.fields import section, setting


@dataclasses.dataclass(frozen=True)
class Engine:
    """Inside the inner one."""

    pistons: int = setting(4, "how many", minimum=1, was="engine_pistons")
    fuel: str = setting("air", "what it burns", choices=("air", "oil"))


@dataclasses.dataclass(frozen=True)
class Motor:
    """The inner one."""

    engine: Engine = section(Engine, "what turns")
    power: float = setting(1.0, "kW", above=0.0)


@dataclasses.dataclass(frozen=True)
class Car:
    """The outer one."""

    motor: Motor = section(Motor, "what drives")
    wheels: int = setting(4, "how many")


@pytest.fixture
def car(monkeypatch):
    monkeypatch.setitem(configs.SECTIONS, "car", Car)


def test_a_mapping_becomes_dataclasses():
    made = fields.make(Car, {"motor": {"engine": {"pistons": 8}}}, "car")
    assert made == Car(motor=Motor(engine=Engine(pistons=8)))


def test_values_by_their_dotted_keys():
    found = fields.flat(Car())
    assert found == {
        "motor.engine.pistons": 4,
        "motor.engine.fuel": "air",
        "motor.power": 1.0,
        "wheels": 4,
    }
    assert fields.nested(found) == dataclasses.asdict(Car())
    assert fields.flattened(dataclasses.asdict(Car())) == found
    changed = fields.replaced(Car(), {"motor.engine.pistons": 6, "motor.power": 2.0, "wheels": 3})
    assert changed == Car(Motor(Engine(pistons=6), 2.0), 3)


def test_flags_reach_every_depth(car):
    flags = [("car.motor.engine.pistons", "12"), ("car.wheels", "6")]
    found = experiment.override(configs.default_config().to_dict(), flags)
    assert fields.make(Car, found["car"], "car") == Car(Motor(Engine(12)), 6)
    assert configs.default_config().car.motor.engine.pistons == 4


WRONG = {
    "car.motor.engine.piston": "did you mean pistons?",
    "car.motor.engine.zzz": "choose one of: pistons, fuel",
    "car.engine_pistons": "it is car.motor.engine.pistons now",
    "car.fuel": "did you mean config.car.motor.engine.fuel?",
    "car.motor": "config.car.motor is a section",
    "car.motor.engine": "config.car.motor.engine is a section",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_flag_is_refused_with_the_right_one(car, name):
    with pytest.raises(UserError) as error:
        experiment.override({}, [(name, "1")])
    assert WRONG[name] in str(error.value)


def test_a_wrong_mapping_is_refused_with_the_right_key():
    for values, words in {
        "{'engine_pistons': 8}": "it is car.motor.engine.pistons now",
        "{'motor': {'engine': {'piston': 8}}}": "car.motor.engine.piston is not a setting; did",
        "{'motor': {'engine': {'pistons': 0}}}": "car.motor.engine.pistons=0 must be at least 1",
        "{'motor': 3}": "car.motor=3 is a section",
    }.items():
        with pytest.raises(UserError) as error:
            fields.make(Car, eval(values), "car")
        assert words in str(error.value)


def test_an_experiment_file_is_told_the_new_spelling(car, tmp_path):
    path = tmp_path / "e.py"
    path.write_text(
        "from gptjax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.car.engine_pistons = 8\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match=r"it is config\.car\.motor\.engine\.pistons now"):
        experiment.load(str(path))


def test_what_an_earlier_version_saved_is_read():
    saved = {"engine_pistons": 8, "wheels": 3}
    assert fields.make(Car, fields.upgraded(Car, saved), "car") == Car(Motor(Engine(8)), 3)


def test_the_reference_has_a_table_for_each(car):
    page = reference().render()
    assert "## `config.car`" in page and "#### `config.car.motor.engine`" in page
    assert "| `car.motor.engine.pistons` | `4` | whole number | ≥ 1 | how many |" in page
