"""What is fast enough: every aim of the project, each with what stands in its way where it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Aim:
    """What a figure has to reach.

    job      what is done, as the aim was set
    bound    a ratio of our figure to the peer's, or our figure itself where `absolute`
    sense    whether the figure has to stay at or below the bound, or reach it
    absolute the unit of the figure itself; "" for a ratio
    hurdle   shown beside a row that does not meet it: the profile that says why, and what would be
             needed
    """

    job: str
    bound: float
    sense: Literal["at most", "at least"] = "at most"
    absolute: str = ""
    hurdle: str = ""

    def reached(self, figure: float) -> bool:
        """Whether a figure, or a ratio, is good enough."""
        return figure <= self.bound if self.sense == "at most" else figure >= self.bound

    @property
    def text(self) -> str:
        """The bound in words."""
        if self.absolute:
            return f"under {self.bound:g} {self.absolute}"
        return f"{self.sense} {self.bound:.3g}"


AIMS: dict[str, Aim] = {
    # Planning
    "plan-limit": Aim(
        "plan folder to folder, 100,000 entries, against the limit in C",
        1.5,
        hurdle="By py-spy, and a loop taken apart: system calls take 15 us of processor time for "
        "an entry, listing included, where all that C does takes 10. Python adds hash and UTF-8 "
        "check of the content (7 us), metadata decoded, searched for keys that are there twice, "
        "brought into canonical form and hashed (8), states and the loop itself (3), and 0.4 s of "
        "start; and two processes slow each other down. It would need this loop in C.",
    ),
    "plan-rsync": Aim(
        "plan folder to folder, 100,000, faster than rsync -rnci",
        1.0,
        hurdle="The loop as above. rsync compares the bytes of two files and is done with them; a "
        "plan needs what each entry is, in digests of content and canonical metadata. Its "
        "processes take 3.3 s of processor time for that, the two of hdev 8.",
    ),
    "plan-rclone": Aim(
        "plan folder to folder, 100,000, 5 times faster than rclone check",
        0.2,
        hurdle="The loop as above; rclone is compiled, uses both processors, and hashes the bytes "
        "of metadata as they are.",
    ),
    "plan-memory": Aim(
        "flat memory: the peak of a plan of 100,000 against that of 10,000 entries", 1.25
    ),
    "replan": Aim(
        "plan again, nothing changed, against find -printf over both stores",
        1.5,
        hurdle="py-spy: both list and stat 400,000 files, find in one process, hdev in two that "
        "take 1.7 s each and slow each other down. The rest is 0.4 s of start, 0.4 s for the "
        "folders in which something differs, 0.3 s for names that look alike, and the review. One "
        "system call that stats a folder's files together would be needed, and Linux has none.",
    ),
    "plan-10000": Aim(
        "plan of 10,000 entries on both sides, against rsync -rnc",
        2.0,
        hurdle="The start takes 0.4 s: the interpreter, Typer, msgspec, our own modules, and the "
        "review's. The rest is the loop of the larger plan.",
    ),
    "plan-empty": Aim(
        "plan of 10,000 entries into an empty target, against rsync -rnc",
        2.0,
        hurdle="Every entry of the source is read and hashed for the plan, also where the target "
        "has nothing; rsync need not read a file that the other side lacks. Then comes the start, "
        "0.4 s.",
    ),
    "plan-memory-full": Aim("peak of a plan of 100,000, both sides full", 150, absolute="MB"),
    "plan-memory-empty": Aim("peak of a plan of 100,000, empty target", 150, absolute="MB"),
    # Applying, folder to folder
    "apply-rsync": Aim(
        "durable apply folder to folder, 10,000 new, against rsync -a, which does not sync",
        1.3,
        hurdle="rsync reads and writes each file once. Here the source is read twice, before the "
        "first write and at its own; each file is made under a name of ours, read back, renamed, "
        "synced and read once more, and each entry has two records in the log: about 0.3 ms of "
        "processor time for an entry, in one process.",
    ),
    "apply-fsync": Aim(
        "durable apply folder to folder, 10,000 new, against rsync -a --fsync",
        1 / 3,
        hurdle="hdev syncs in batches and rsync each file, so this ratio is the price of one sync "
        "on this disk: where a sync is cheap, both wait for the making of files.",
    ),
    "resume": Aim(
        "resume of an apply killed at half, against an apply of just the rest",
        1.2,
        hurdle="A resume looks at every entry of the plan on both sides before it writes, the "
        "half that is done included; an apply of the rest has half as many to look at.",
    ),
    # Our server
    "server-migrator": Aim(
        "apply to our server, 10,000 new, durable and verified, against the existing migrator",
        20,
        "at least",
        hurdle="Each entry is read, hashed, sent, written, synced, read back and recorded in two "
        "logs, on two cores that client and server share. It takes about 0.2 ms of the client's "
        "processor time and 0.28 ms of a server's over SQLite (checked and written 0.15, read "
        "back 0.07, HTTP 0.06), so the two together stay below 4,000 entries/s; a folder takes "
        "twice that. With 1,000 entries the start of hdev, 0.4 s, is a good part of the whole.",
    ),
    "server-rclone": Aim(
        "the same against rclone copy to rclone serve webdav, neither durable nor verified",
        3,
        "at least",
        hurdle="The processor time of both sides as above; over a folder each entry is two files "
        "that are made, read back, renamed and synced, and stands in the server's journal first. "
        "rclone is two compiled programs that use both cores.",
    ),
    "server-snapshot": Aim(
        "snapshot of our server, 100,000 entries, against the existing dry run", 20, "at least"
    ),
    # The existing server
    "existing-wrk": Aim(
        "apply to the existing server against wrk with the same requests and connections",
        0.8,
        "at least",
        hurdle="The client shares two cores with a server that keeps one of them busy, and does "
        "for each answer what wrk leaves out: it decodes, checks and hashes it, and keeps a log, "
        "0.2 to 0.4 ms for each request where the server takes 1 ms. Its start, 0.4 s, counts as "
        "well, which is a quarter of 500 entries.",
    ),
    "existing-copy": Aim(
        "copy to the existing server, read back, against one request after another",
        2,
        "at least",
        hurdle="Either run sends two requests for each entry, a write and a read, and each takes "
        "about 1 ms of the one process that the existing server is. Only what the client does "
        "meanwhile can be saved, which is about half of the time of one request after another.",
    ),
    # People
    "review-markdown": Aim(
        "review of 10,000 actions in Markdown",
        2,
        absolute="s",
        hurdle="By py-spy, of 6.0 s: 9 % render; 50 % compare the entries by line and word, make "
        "their lines inert and list changed metadata, 20 % read both ends in one process, the "
        "rest is the plan, names that look alike, and the start. Both processors would have to "
        "read and compare, which saves a third at most, and the loop be compiled.",
    ),
    "review-html": Aim(
        "review of 10,000 actions in HTML",
        5,
        absolute="s",
        hurdle="The same reading and comparing, half of 8.7 s; 38 % are the template, a call for "
        "each line that is shown. Lines would have to be put together without it.",
    ),
    "review-first-byte": Aim(
        "first byte of a review of 100,000 actions",
        1,
        absolute="s",
        hurdle="By py-spy, of the time until then: 39 % decode and check the plan to its end, 41 % "
        "look for names that look alike, in up to three passes over the keys, and 12 % choose what "
        "is read. The check would have to be a loop in C, and the passes one.",
    ),
    "review-memory": Aim("peak of a review of 100,000 actions", 150, absolute="MB"),
    "start": Aim("start-up against a Typer program that does nothing", 1.5),
    # Size
    "million-plan": Aim("plan of 1,000,000 entries: peak memory", 300, absolute="MB"),
    "million-apply": Aim("apply of 1,000,000 entries: peak memory", 300, absolute="MB"),
}
