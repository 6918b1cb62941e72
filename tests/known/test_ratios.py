"""The table of an ablation, worked out on paper."""

from __future__ import annotations

from rstbench.reports.ratios import is_comparison, ratios, ratios_text

T, PGD = "Linf:0.1", "pgd"


def line(setting, ratio, seed, pgd, worst, clean=0.9):
    common = {"method": "rst", "threat": T, "remaining": 0.1, "kept_weights": 10, "images": 100}
    return {
        "setting": setting,
        "ratio": ratio,
        "seed": seed,
        "clean": clean,
        PGD: pgd,
        "worst": worst,
    } | common


def test_settings_over_seeds_by_hand():
    lines = [line("rst", "0.1", seed, pgd, pgd - 0.1) for seed, pgd in enumerate((0.5, 0.6, 0.7))]
    lines += [line("rst", "0.05", 0, 0.4, 0.4), line("rst", "0.05", 1, None, None), line("", "", 0, 0.9, 0.9)]
    lines += [line("dense", "", 0, 0.8, 0.8)]
    table = ratios(lines, [PGD]).set_index(["setting", "ratio"])
    assert list(table.index) == [("rst", "0.1"), ("rst", "0.05"), ("dense", "")]
    assert table.loc[("rst", "0.1"), ["seeds", PGD, f"{PGD}_sd", "worst"]].tolist() == [3, 0.6, 0.1, 0.5]
    # Where a seed has failed there is no mean over the seeds.
    assert table.loc[("rst", "0.05"), "seeds"] == 2
    assert table.loc[("rst", "0.05"), [PGD, f"{PGD}_sd"]].isna().all()
    text = list(ratios_text(table.reset_index()))
    assert text == [
        "clean: percent of 100 images, mean of 3 seeds ± standard deviation",
        "            0.05        0.1  dense",
        "rst    90.0 ±0.0  90.0 ±0.0",
        "dense                         90.0",
        "pgd at Linf:0.1: percent of 100 images, mean of 3 seeds ± standard deviation",
        "              0.1  dense",
        "rst    60.0 ±10.0",
        "dense               80.0",
    ]


def test_one_seed_and_one_setting_make_no_comparison():
    single = [line("rst", ratio, 0, 0.5, 0.5) for ratio in ("0.1", "0.2")] + [line("dense", "", 0, 0.8, 0.8)]
    assert not is_comparison(ratios(single, [PGD]))
    assert is_comparison(ratios([*single, line("rst", "0.1", 1, 0.5, 0.5)], [PGD]))
    assert is_comparison(ratios([*single, *(line("row", r, 0, 0.5, 0.5) for r in ("0.1", "0.2"))], [PGD]))
