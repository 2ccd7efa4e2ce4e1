"""Bugs to be planted, one at a time: a small change of the source, and the test that must fail.

`promise` is the promise of docs/guarantees.md that the bug breaks. A test that does not fail with
its bug proves nothing; `test_planted_bugs.py` is the gate.
"""

from __future__ import annotations

from dataclasses import dataclass

POWER = "tests/survival/test_power_loss.py"
CUT = f"{POWER}::test_after_every_power_cut_running_again_comes_to_the_exact_end[each]"
FAILPOINTS = "tests/survival/test_failpoints.py"
KILLED = f"{FAILPOINTS}::test_a_run_that_is_killed_at_a_call_is_resumed[each]"
RACES = "tests/survival/test_races.py"
TAMPERING = "tests/survival/test_tampering.py"
INERT = "tests/survival/test_inert.py"
COUNTS = "tests/survival/test_counts.py"
WORKFLOW = "tests/cli/test_workflow.py"
APPROVALS = "tests/cli/test_approvals.py"
POLICY = "tests/cli/test_policy.py"
SQL = "tests/backends/test_sql.py"
CONTRACT = "tests/backends/test_contract.py"
KEPT = "tests/backends/test_statcache.py"

WRITE = "backends/filesystem_write.py"
FILES = "backends/filesystem_files.py"
STRETCH = "backends/filesystem_stretch.py"


@dataclass(frozen=True)
class Bug:
    """`edits` are (file below src/hdev_memory, text that is there once, text instead)."""

    name: str
    promise: str
    edits: tuple[tuple[str, str, str], ...]
    test: str


BUGS = (
    Bug(
        "deletes are not compared with what stands there",
        "P1",
        (
            (
                "core/diff.py",
                "    if current == before:\n        return Verdict.READY\n",
                (
                    "    if current == before or isinstance(action, Delete):\n"
                    "        return Verdict.READY\n"
                ),
            ),
        ),
        "tests/core/test_diff.py::test_judge_knows_ready_done_and_drift",
    ),
    Bug(
        "an overwrite looks and then renames",
        "P2",
        (
            (
                WRITE,
                (
                    "            durable.disk.exchange(folder, step.staged, name)\n"
                    "            return\n"
                ),
                (
                    "            aside = durable.staged_name(step.label)\n"
                    "            durable.disk.link(folder, name, aside)\n"
                    "            durable.disk.replace(folder, step.staged, name)\n"
                    "            step.staged = aside\n"
                    "            return\n"
                ),
            ),
        ),
        f"{RACES}::test_no_update_of_somebody_else_is_lost",
    ),
    Bug(
        "what was displaced is not looked at",
        "P2",
        ((WRITE, "        if found != step.before:\n", "        if False:\n"),),
        f"{RACES}::test_what_somebody_writes_into_a_displaced_file_is_kept",
    ),
    Bug(
        "what was displaced is not looked at again before it is removed",
        "P2",
        (
            (
                WRITE,
                (
                    "                self._keep_foreign(folder, step, item)\n"
                    "                if step.staged:\n"
                ),
                "                if step.staged:\n",
            ),
        ),
        f"{RACES}::test_what_somebody_writes_into_a_displaced_file_is_kept",
    ),
    Bug(
        "pre-images are not synced",
        "P3",
        (
            (
                "plandir.py",
                "FilesystemBackend(str(self.path), must_exist=False)",
                "FilesystemBackend(str(self.path), must_exist=False, sync=False)",
            ),
        ),
        CUT,
    ),
    Bug(
        "a pre-image that was cut off is not finished",
        "P3",
        (("plandir.py", "                resumed=True,\n", ""),),
        KILLED,
    ),
    Bug(
        "folders are not synced",
        "P4",
        (
            (
                FILES,
                (
                    "            try:\n                durable.disk.sync(descriptor)\n"
                    "            finally:\n"
                ),
                "            try:\n                pass\n            finally:\n",
            ),
        ),
        f"{COUNTS}::test_a_write_syncs_as_often_as_it_must",
    ),
    Bug(
        "folders above a changed one are not synced",
        "P4",
        ((FILES, "            self._remember(above, descriptor)\n", "            pass\n"),),
        f"{COUNTS}::test_every_folder_on_the_way_to_a_changed_one_is_synced_once",
    ),
    Bug(
        "staged files are not synced",
        "P4",
        (
            (
                "durable.py",
                "            if sync:\n                disk.sync(descriptor)\n            if os",
                "            if os",
            ),
        ),
        CUT,
    ),
    Bug(
        "a large batch is not synced before it takes effect",
        "P4",
        (
            (
                WRITE,
                "            try:\n                together()\n",
                "            try:\n                pass\n",
            ),
        ),
        f"{POWER}::test_after_every_power_cut_running_again_comes_to_the_exact_end[grouped]",
    ),
    Bug(
        "the intent is logged after the effects",
        "P5",
        (
            (
                WRITE,
                "        session.intend([item.change for item in ready])\n        misses = {}\n",
                "        misses = {}\n",
            ),
            (
                WRITE,
                "        if self._sync:\n            try:\n                cursor.sync()\n",
                (
                    "        session.intend([item.change for item in ready])\n"
                    "        if self._sync:\n            try:\n                cursor.sync()\n"
                ),
            ),
        ),
        CUT,
    ),
    Bug(
        "the log is not synced",
        "P5",
        (
            (
                "durable.py",
                "    disk.sync(descriptor)\n    if os.pread(",
                "    if os.pread(",
            ),
        ),
        CUT,
    ),
    Bug(
        "records are not compared with the one before",
        "P5",
        (("core/audit.py", "        if record.prev != head.digest:\n", "        if False:\n"),),
        f"{TAMPERING}::test_a_record_that_was_changed_is_refused_by_verify_and_by_apply",
    ),
    Bug(
        "the log of another plan is taken for ours",
        "P5",
        (("plandir.py", "self._plan is not None and record.plan", "False and record.plan"),),
        f"{TAMPERING}::test_a_log_of_another_plan_is_refused",
    ),
    Bug(
        "the log is not held against the head that was noted",
        "P5",
        (("auditing.py", "if wanted[claim.head.seq] != claim.head", "if False"),),
        "tests/cli/test_audit.py::test_a_whole_chain_that_is_not_the_noted_one_is_refused",
    ),
    Bug(
        "a signature that fits nothing is no sign of tampering",
        "P5",
        (("auditing.py", "except signing.Unfit as error", "except ZeroDivisionError as error"),),
        "tests/cli/test_audit.py::test_a_signed_receipt_that_was_changed_is_tampering",
    ),
    Bug(
        "the server acknowledges a write that its log could not take",
        "P5",
        (
            (
                "server/store.py",
                "                self.log.record(changes, receipts, authors)\n",
                (
                    "                try:\n"
                    "                    self.log.record(changes, receipts, authors)\n"
                    "                except StoreError:\n"
                    "                    pass\n"
                ),
            ),
        ),
        "tests/server/test_audit.py::"
        "test_a_write_that_cannot_be_recorded_is_not_acknowledged_and_none_comes_after_it",
    ),
    Bug(
        "what a killed server had recorded is recorded again",
        "P5",
        (("server/audit.py", "if change.key in there:", "if False:"),),
        "tests/server/test_killed.py::"
        "test_what_was_cut_off_is_recorded_once_whether_the_log_had_it_or_not",
    ),
    Bug(
        "what was cut off is taken for drift",
        "P6",
        (
            (
                "apply.py",
                "verdict is Verdict.DRIFT and _was_cut_off(",
                "verdict is Verdict.DRIFT and False and _was_cut_off(",
            ),
        ),
        KILLED,
    ),
    Bug(
        "what a killed run has staged is left there",
        "P6",
        (
            (
                "apply.py",
                (
                    "        kept += target.tidy(names, keys, changes, "
                    "opened.plan.head.normalisation)\n"
                ),
                "        pass\n",
            ),
        ),
        KILLED,
    ),
    Bug(
        "a torn line is taken for damage",
        "P6",
        (
            (
                "auditlog.py",
                "                        self._cut(whole, torn)\n",
                "                        pass\n",
            ),
        ),
        f"{TAMPERING}::test_a_torn_last_line_is_kept_aside_and_the_repair_is_recorded",
    ),
    Bug(
        "drift does not refuse",
        "P7",
        (("apply.py", "    if drifts:\n        raise", "    if False:\n        raise"),),
        f"{WORKFLOW}::test_any_drift_refuses_before_the_first_write",
    ),
    Bug(
        "an entry is not looked at once more at its own write",
        "P7",
        ((WRITE, "            if state != change.before:\n", "            if False:\n"),),
        f"{CONTRACT}::test_promise[filesystem-stale-overwrite]",
    ),
    Bug(
        "the seal of a plan is not compared",
        "P8",
        (
            (
                "core/plan.py",
                "hexdigest())\n        if self._need() != expected:\n",
                "hexdigest())\n        if self._need() == b'':\n",
            ),
        ),
        "tests/core/test_plan.py::test_a_flip_of_any_byte_is_refused",
    ),
    Bug(
        "a finished plan is executed again",
        "P8",
        (
            (
                "cli/steps.py",
                '    if not runs or runs[-1].event != "finished":\n',
                "    if True:\n",
            ),
        ),
        f"{WORKFLOW}::test_applying_again_does_nothing_and_after_a_change_is_refused",
    ),
    Bug(
        "a server that says yes is believed",
        "P9",
        (
            (
                "backends/http.py",
                ("        sending.count(outcome)\n"),
                (
                    "        sending.count(outcome)\n"
                    "        if outcome.said == 'confirmed':\n"
                    "            return (\n"
                    "                Stored(key=change.key, state=change.after)\n"
                    "                if isinstance(change, Put)\n"
                    "                else Removed(key=change.key)\n"
                    "            )\n"
                ),
            ),
        ),
        "tests/backends/test_http.py::test_a_server_that_says_yes_and_writes_nothing_is_not_believed",
    ),
    Bug(
        "the receipts of a batch are believed",
        "P9",
        (
            (
                "backends/http_batches.py",
                "                receipts.append(receipt_of(line.change, state, outcome))\n",
                (
                    "                if outcome.said == 'confirmed':\n"
                    "                    state = after_of(line.change)\n"
                    "                receipts.append(receipt_of(line.change, state, outcome))\n"
                ),
            ),
        ),
        "tests/hostile/test_hostile.py::test_what_a_hostile_server_does_comes_to_its_outcome"
        "[batch-says-yes]",
    ),
    Bug(
        "a lying write to the log is believed",
        "P9",
        (
            (
                "durable.py",
                "    if os.pread(descriptor, len(content) + 1, end) != content:\n",
                "    if False:\n",
            ),
        ),
        "tests/survival/test_lies.py::test_a_log_that_did_not_take_a_record_stops_the_run",
    ),
    Bug(
        "a batch that was changed on its way is carried out",
        "P9",
        (("server/protocol.py", "if hashlib.sha256(body).digest() != wanted:", "if False:"),),
        "tests/server/test_protocol.py::"
        "test_a_body_that_is_not_the_one_that_was_sent_takes_no_effect",
    ),
    Bug(
        "what a broken batch may have written is called intact",
        "P9",
        (("server/store.py", "reason=reason, intact=not began)", "reason=reason, intact=True)"),),
        "tests/server/test_store.py::test_what_was_done_before_a_store_failed_is_told",
    ),
    Bug(
        "redirects are followed",
        "P10",
        (
            (
                "backends/http_transport.py",
                'if answer.status not in _REDIRECTS or method != "GET":',
                "if answer.status not in _REDIRECTS:",
            ),
        ),
        "tests/hostile/test_hostile.py::test_what_a_hostile_server_does_comes_to_its_outcome"
        "[redirect-a-write-inside]",
    ),
    Bug(
        "a key travels in the clear",
        "P10",
        (
            (
                "backends/http_transport.py",
                '            where.key is not None\n            and url.scheme == "http"\n',
                '            where.key is None\n            and url.scheme == "http"\n',
            ),
        ),
        "tests/backends/test_http.py::test_a_key_does_not_travel_in_the_clear_to_another_machine",
    ),
    Bug(
        "links are followed",
        "P11",
        (
            (
                FILES,
                "FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
                "FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
            ),
        ),
        f"{RACES}::test_a_link_that_flips_never_leads_a_write_outside",
    ),
    Bug(
        "a backslash is shown as it is",
        "P12",
        (
            (
                "review/inert.py",
                '"\\\\\\\\" if char == "\\\\" else ',
                "",
            ),
            ("review/inert.py", "[ -\\[\\]-~]*", "[ -~]*"),
        ),
        f"{INERT}::test_a_text_that_spells_out_a_hidden_character_is_not_shown_as_one",
    ),
    Bug(
        "characters that turn the direction are shown as they are",
        "P12",
        (("core/characters.py", '{"Cc", "Cf", "Cs",', '{"Cc", "Cs",'),),
        f"{INERT}::test_every_character_is_shown_as_something_visible_of_its_own",
    ),
    Bug(
        "an entry that has changed is shown as if it had been planned",
        "P12",
        (("review/reading.py", "    if found == planned:\n", "    if found is not None:\n"),),
        "tests/review/test_reading.py"
        "::test_drift_of_an_end_is_shown_and_nothing_else_of_that_entry",
    ),
    Bug(
        "a folded line begins without a mark",
        "P12",
        (
            (
                "review/terminal.py",
                "(_GOES_ON if number else _CONTENT",
                '("" if number else _CONTENT',
            ),
        ),
        "tests/review/test_renderers.py"
        "::test_every_physical_line_of_a_terminal_begins_with_a_mark_of_ours",
    ),
    Bug(
        "nesting has no limit",
        "P13",
        (("core/digest.py", "MAX_DEPTH = 64\n", "MAX_DEPTH = 400\n"),),
        "tests/core/test_digest.py::test_nesting_beyond_the_limit_is_refused",
    ),
    Bug(
        "bodies that wait at the server have no limit together",
        "P13",
        (
            (
                "server/app.py",
                "if self._waiting > self._limits.waiting_bytes:",
                "if False:",
            ),
        ),
        "tests/server/test_limits.py::test_all_bodies_that_wait_have_a_limit_together",
    ),
    Bug(
        "deletes have no limit",
        "P14",
        (("planning.py", "    if summary.delete > limit:\n", "    if False:\n"),),
        f"{WORKFLOW}::test_deletes_have_a_limit",
    ),
    Bug(
        "a page of a snapshot is believed without its proof",
        "P14",
        (
            (
                "backends/http_lines.py",
                "        if end.entries != len(lines) - 1:\n",
                "        if False:\n",
            ),
        ),
        "tests/hostile/test_hostile.py::test_what_a_hostile_server_does_comes_to_its_outcome"
        "[snapshot-proof-wrong]",
    ),
    Bug(
        "a listing that fails is empty",
        "P14",
        (
            (
                "backends/http.py",
                (
                    "        if answer.status != 200 or not success(answer):\n"
                    '            raise _unlisted("/api/memory/tree", answer.cause)\n'
                ),
                "        if answer.status != 200 or not success(answer):\n            return {}\n",
            ),
        ),
        "tests/backends/test_http.py::test_a_listing_that_fails_is_an_error_and_never_empty",
    ),
    Bug(
        "a filesystem is believed to exchange names",
        "P16",
        (("backends/filesystem.py", "        if not exchanges:\n", "        if False:\n"),),
        "tests/survival/test_probe.py",
    ),
    Bug(
        "times that a backend keeps are compared",
        "P15",
        (("core/entry.py", '("created", "updated", "version")', '("version",)'),),
        "tests/core/test_entry.py::test_bookkeeping_is_no_part_of_the_digest",
    ),
    Bug(
        "a plan does not expire",
        "P15",
        (
            (
                "apply.py",
                "    if expires is not None and now >= ",
                "    if expires is None and now >= ",
            ),
        ),
        "tests/cli/test_bad_input.py::test_an_expired_plan",
    ),
    Bug(
        "an approval of another plan counts",
        "P8",
        (
            (
                "core/approval.py",
                '    if requirement.bind == "plan" and said.plan != about.plan:\n',
                "    if False:\n",
            ),
        ),
        "tests/core/test_approval.py::test_what_one_is_worth",
    ),
    Bug(
        "one key counts for two principals",
        "P8",
        (("core/approval.py", "        or one.key == other.key\n", ""),),
        "tests/core/test_approval.py::test_principals_keys_and_nonces_are_counted_once",
    ),
    Bug(
        "any key may approve",
        "P8",
        (
            (
                "signing.py",
                "        own = [signer for signer in self._root.signers if signer.key == key]\n",
                "        own = list(self_signed(signature, principal).signers)\n",
            ),
        ),
        "tests/test_signing.py::test_trap_check_novalidate_accepts_any_key_and_is_no_way_in",
    ),
    Bug(
        "a key is good when its statement says that it was",
        "P8",
        (
            (
                "cli/gate.py",
                "verifier.verify(item.statement, item.signature, who, moment)",
                (
                    "verifier.verify(item.statement, item.signature, who, "
                    "datetime.fromisoformat(statement.created))"
                ),
            ),
        ),
        f"{APPROVALS}::test_what_does_not_suffice_is_refused_told_and_logged",
    ),
    Bug(
        "the rules of a pull request judge it",
        "P8",
        (
            (
                "cli/gate.py",
                "        configured = _committed(files, settings.cwd)\n",
                "",
            ),
        ),
        f"{APPROVALS}::test_a_pull_request_cannot_change_the_rules_that_judge_it",
    ),
    Bug(
        "apply does not ask the policy",
        "P8",
        (("cli/steps.py", "            lifted = policy()\n", '            lifted = ""\n'),),
        f"{POLICY}::test_a_policy_made_stricter_after_the_plan_holds",
    ),
    Bug(
        "the policy of the plan is not asked again",
        "P8",
        (("cli/policing.py", "    if planned is not None:\n", "    if False:\n"),),
        f"{POLICY}::test_a_plan_whose_findings_were_taken_out_is_judged_all_the_same",
    ),
    Bug(
        "the policy of a pull request judges it",
        "P8",
        (
            (
                "cli/policing.py",
                "    policies = [_read(files, place) for",
                "    policies = [_read(trust.Checkout(), place) for",
            ),
        ),
        f"{POLICY}::test_a_policy_loosened_in_the_same_change_is_read_from_the_base",
    ),
    Bug(
        "an override lifts hard findings",
        "P8",
        (
            (
                "core/policy.py",
                '(one.level == "hard" or (one.level == "soft" and one.digest not in free))',
                'one.level != "advisory" and one.digest not in free',
            ),
        ),
        "tests/core/test_policy.py::test_only_soft_findings_are_lifted_and_only_by_their_own_name",
    ),
    Bug(
        "an override of another plan counts",
        "P8",
        (("core/override.py", "    if override.plan != plan:\n", "    if False:\n"),),
        f"{POLICY}::test_an_override_that_does_not_hold_lifts_nothing",
    ),
    Bug(
        "a rule without its detector is passed over",
        "P8",
        (
            (
                "detect/secrets.py",
                "    except ImportError:\n        raise",
                "    except ImportError:\n        return []\n        raise",
            ),
        ),
        f"{POLICY}::test_without_the_extra_a_rule_is_refused_and_never_passed_over",
    ),
    Bug(
        "overwrites are not looked into",
        "P8",
        (
            (
                "findings.py",
                "isinstance(action, Create | Overwrite):",
                "isinstance(action, Create):",
            ),
        ),
        f"{POLICY}::test_a_policy_has_its_outcome_at_plan_and_at_apply[a secret in an overwrite]",
    ),
    Bug(
        "a row that was edited by hand in SQLite is written over",
        "P2",
        (("backends/sqlite.py", " AND digest_of(content) = content_digest", ""),),
        f"{SQL}::test_a_row_that_was_edited_by_hand_is_unreadable_and_is_not_written_over"
        "[sqlite-other content]",
    ),
    Bug(
        "a row that was edited by hand in PostgreSQL is written over",
        "P2",
        (
            (
                "backends/postgres.py",
                "THEN {_DIGEST} = looked.was_digest END",
                "THEN true END",
            ),
        ),
        f"{SQL}::test_a_row_that_was_edited_by_hand_is_unreadable_and_is_not_written_over"
        "[postgres-other content]",
    ),
    Bug(
        "of two servers of a database both win though one saw other bookkeeping",
        "P2",
        (("backends/sql.py", "    if change.tag and (", "    if not change.key and ("),),
        f"{SQL}::test_of_writers_that_saw_the_same_tag_one_wins_though_only_bookkeeping_differs"
        "[sqlite]",
    ),
    Bug(
        "commits to SQLite are not synced",
        "P4",
        (("backends/sqlite.py", "{'FULL' if self._sync", "{'NORMAL' if self._sync"),),
        "tests/backends/test_sqlite.py::test_every_commit_is_synced_unless_durability_was_given_up",
    ),
    Bug(
        "an overtaken fence is not looked at where the write takes effect",
        "P7",
        (("backends/sql.py", "            if latest > fence:\n", "            if False:\n"),),
        f"{SQL}::test_a_write_with_an_overtaken_fence_has_no_effect[sqlite]",
    ),
    Bug(
        "a commit without an answer is taken for one that worked",
        "P9",
        (
            (
                "backends/postgres.py",
                "            over = patiently(lambda: self._over(number))\n",
                "            return\n            over = patiently(lambda: self._over(number))\n",
            ),
        ),
        "tests/backends/test_postgres.py"
        "::test_a_commit_without_an_answer_is_settled_by_asking_what_became_of_it[False]",
    ),
    Bug(
        "an entry that changed just before it was read is taken as settled",
        "P9",
        (
            (
                STRETCH,
                "    return _numbers(one, two) if changed < before else _UNSETTLED\n",
                "    return _numbers(one, two)\n",
            ),
        ),
        f"{KEPT}::test_what_changed_just_before_it_was_read_is_read_again",
    ),
    Bug(
        "of two equal times of change the one that cannot be set is not looked at",
        "P9",
        (
            (
                STRETCH,
                "        one.st_ctime_ns,\n        one.st_ino,\n",
                "        one.st_ino,\n" * 2,
            ),
            (
                STRETCH,
                "        two.st_ctime_ns,\n        two.st_ino,\n",
                "        two.st_ino,\n" * 2,
            ),
        ),
        f"{KEPT}::test_an_edit_that_restores_size_and_time_of_change_is_seen",
    ),
    Bug(
        "what is kept beside stats is believed though its digest does not fit",
        "P9",
        (("backends/statcache.py", " or _sum(packed) != digest:", ":"),),
        f"{KEPT}::test_a_damaged_file_is_never_believed",
    ),
    Bug(
        "what is kept beside stats is believed under any normalisation",
        "P9",
        (("backends/statcache.py", "            msgspec.to_builtins(normalisation),\n", ""),),
        f"{KEPT}::test_what_was_kept_under_another_normalisation_is_not_believed",
    ),
    Bug(
        "what is kept beside stats is believed though others may have written it",
        "P9",
        (
            (
                "backends/statcache.py",
                "            or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)\n",
                "",
            ),
        ),
        f"{KEPT}::test_a_file_that_others_may_write_is_not_believed",
    ),
    Bug(
        "the index of a server is believed for entries of which only the bookkeeping changed",
        "P9",
        (
            (
                "backends/statcache.py",
                "            if looked.get(name) == its:\n",
                "            if looked.get(name, its)[0] == its[0]:\n",
            ),
        ),
        f"{KEPT}::test_tags_are_those_of_whole_entries_and_come_from_the_index",
    ),
    Bug(
        "a snapshot waits for a turn of the writer for each entry that is being written",
        "P13",
        (
            (
                "server/store.py",
                "            found.update(zip(late, self.exclusively(look).result(), strict=True))",
                (
                    "            for key in late:\n"
                    "                late = [key]\n"
                    "                found[key] = self.exclusively(look).result()[0]"
                ),
            ),
        ),
        "tests/server/test_store.py"
        "::test_a_snapshot_waits_for_one_batch_though_there_is_always_another",
    ),
)
