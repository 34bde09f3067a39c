from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.config import Settings, dump_settings, load_settings
from fusar_klip.errors import SettingsError


class Inner(Settings):
    band: int | str | None = None
    gamma: float = 1.0


class Outer(Settings):
    scene: Inner = Inner()
    seed: int = 0
    names: tuple[str, ...] = ()


def test_file_then_set_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("seed = 3\n[scene]\ngamma = 0.5\n")
    settings = load_settings(Outer, file, ["seed=4", "scene.band=VV", 'names=["a", "b"]'])
    assert settings == Outer(scene=Inner(band="VV", gamma=0.5), seed=4, names=("a", "b"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scene.bnad=VV"], 'unknown key "scene.bnad"; did you mean "scene.band"?'),
        (["band=VV"], 'unknown key "band"; did you mean "scene.band"?'),
        (["seed=many"], "seed: input should be a valid integer"),
        (["seed"], "--set takes KEY=VALUE"),
        (["seed=1", "seed.x=2"], '"seed" is a value, not a section'),
    ],
)
def test_a_wrong_setting_says_how_to_fix_it(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("?", r"\?")):
        load_settings(Outer, None, overrides)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the configuration"):
        load_settings(Outer, tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("seed = = 3")
    with pytest.raises(SettingsError, match=r"broken\.toml is not valid TOML"):
        load_settings(Outer, tmp_path / "broken.toml")


@given(seed=st.integers(-(2**63), 2**63 - 1), gamma=st.floats(allow_nan=False), band=st.text() | st.none())
def test_settings_survive_the_disk(
    tmp_path_factory: pytest.TempPathFactory, seed: int, gamma: float, band: str | None
) -> None:
    settings = Outer(scene=Inner(band=band, gamma=gamma), seed=seed)
    path = tmp_path_factory.mktemp("settings") / "s.toml"
    dump_settings(settings, path)
    assert load_settings(Outer, path) == settings
