"""Command line of the simulation: one seed in detail, or a campaign.

python -m loadtests.faults.simulate --seed 17 -v
python -m loadtests.faults.simulate --schedules 100000 --start 20000
"""

import argparse
import sys
from pathlib import Path

from loadtests.faults.campaign import Campaign, replay_command, run_campaign, summary
from loadtests.faults.history import JsonlWriter, dump_entry
from loadtests.faults.simulation import simulate

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """0 when every invariant held, 1 when one did not."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="simulate this seed alone")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the schedule and the end of the history")
    parser.add_argument("--tail", type=int, default=120, help="so many entries of the history (0: all)")
    parser.add_argument("--save", type=Path, help="write the history of --seed to this file (JSON Lines)")
    parser.add_argument("--schedules", type=int, default=10_000, help="how many seeds a campaign has")
    parser.add_argument("--start", type=int, default=0, help="the first seed of a campaign")
    parser.add_argument("--workers", type=int, help="processes; one for each core by default")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, options.verbose, options.tail, options.save)
    campaign = run_campaign(options.start, options.schedules, workers=options.workers, progress=_progress)
    print(file=sys.stderr)
    for text in campaign.failures.values():
        print(text)
    for name, times in sorted(campaign.totals.items()):
        print(f"  {name} {times}")
    if missing := campaign.missing():
        print(f"never happened: {', '.join(missing)}")
    print(f"{summary(campaign)} seconds={campaign.seconds:.1f}")
    return 1 if campaign.failures else 0


def _progress(campaign: Campaign) -> None:
    done = campaign.totals["schedules"]
    print(f"\r{done} schedules, {campaign.seconds:.0f} s, {len(campaign.failures)} failing", end="", file=sys.stderr)


def _one(seed: int, verbose: bool, tail: int, save: Path | None) -> int:
    outcome = simulate(seed)
    if verbose:
        print(outcome.setup.describe())
        for entry in outcome.history[-tail:]:
            print(dump_entry(entry))
    if save is not None:
        with JsonlWriter(save) as writer:
            writer.extend(outcome.history)
    for violation in outcome.violations:
        print(violation)
    print(f"seed {seed}: {len(outcome.history)} entries, {len(outcome.violations)} violations")
    if outcome.violations and not verbose:
        print(replay_command(seed))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
