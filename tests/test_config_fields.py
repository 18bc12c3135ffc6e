import pytest

from tf_resflow.config_fields import AT_LEAST_1, Field, Rule, check_section, make_section, one_of, suggest

FIELDS = {
    "name": "a",
    "steps": Field(3, AT_LEAST_1),
    "rate": Field(None, Rule(lambda v: v is None or v > 0, "None, or above 0")),
    "inner": {"kind": Field("one", one_of("one", "two"))},
}


def test_a_section_has_the_defaults_and_their_types():
    section = make_section(FIELDS)
    assert section.to_dict() == {"name": "a", "steps": 3, "rate": None, "inner": {"kind": "one"}}
    check_section(section, FIELDS)
    section.rate = 0.5
    for field, value in {"rate": "fast", "steps": "many", "name": 1}.items():
        with pytest.raises(TypeError):
            section[field] = value


def test_a_value_that_breaks_its_rule_is_named():
    for key, value, message in (
        ("steps", 0, "config.steps is 0; it must be at least 1."),
        ("rate", -1.0, "config.rate is -1.0; it must be None, or above 0."),
        ("inner.kind", "three", "config.inner.kind is 'three'; it must be one of 'one', 'two'."),
    ):
        section = make_section(FIELDS)
        section.update_from_flattened_dict({key: value})
        with pytest.raises(ValueError, match=f"^{message}$"):
            check_section(section, FIELDS)


def test_suggest():
    assert suggest("stesp", FIELDS) == "did you mean 'steps'?"
    assert suggest("something else", FIELDS) == "nothing has a similar name."
