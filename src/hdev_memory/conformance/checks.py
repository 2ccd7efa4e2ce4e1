"""The one table of promises: a name, a group, the promise in a sentence, and the proof."""

from __future__ import annotations

from hdev_memory.conformance import (
    chaos,
    conditions,
    content,
    durability,
    identity,
    limits,
    names,
    reading,
    visibility,
)
from hdev_memory.conformance.subject import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "new-entry", "basic", reading.new_entry,
        "A new entry is read back with its content and metadata.",
    ),
    Check(
        "overwrite", "basic", reading.overwrite,
        "An overwrite replaces the content, and its receipt tells the state that stands.",
    ),
    Check(
        "removal", "basic", reading.removal,
        "A removed entry is absent and not listed any more.",
    ),
    Check(
        "metadata-round-trip", "basic", reading.metadata_round_trip,
        "Metadata comes back as JSON with every value, bookkeeping included.",
    ),
    Check(
        "metadata-as-declared", "basic", reading.metadata_as_declared,
        "An overwrite replaces metadata and leaves no old key, unless `merge` is declared.",
    ),
    Check(
        "reading-in-order", "basic", reading.reading_in_order,
        "Reading gives one answer for each key, about that key, in the order asked.",
    ),
    Check(
        "parts", "basic", reading.parts,
        "The parts of an entry are told by their digests, and those of nothing as missing.",
    ),
    Check(
        "absence", "not-found", reading.absence,
        "What is not there is absent, also near an entry and in a folder that is not there.",
    ),
    Check(
        "removing-nothing", "not-found", reading.removing_nothing,
        "The removal of an entry that is not there drifts, and does not claim to have removed it.",
    ),
    Check(
        "overwriting-nothing", "not-found", reading.overwriting_nothing,
        "The overwrite of an entry that is not there drifts and creates nothing.",
    ),
    Check(
        "looking-creates-nothing", "not-found", reading.looking_creates_nothing,
        "Listing and reading create nothing.", writes=False,
    ),
    Check(
        "unreadable", "not-found", reading.unreadable,
        "What is there and cannot be read is told as unreadable and never overwritten.",
    ),
    Check(
        "unusual-names", "names", names.unusual_names,
        "Names with blanks, marks and letters of any script keep their own text.",
    ),
    Check(
        "names-of-other-case", "names", names.names_of_other_case,
        "Names that differ in upper and lower case are entries of their own.",
    ),
    Check(
        "names-of-other-normal-form", "names", names.names_of_other_normal_form,
        "Names that differ in their Unicode normal form are entries of their own.",
    ),
    Check(
        "names-that-decode", "names", names.names_that_decode,
        "Names that would be one after percent-decoding are entries of their own.",
    ),
    Check(
        "names-with-dots", "names", names.names_with_dots,
        "Names that differ behind a dot are entries of their own, unless `no-suffix` is declared.",
    ),
    Check(
        "keys-that-escape", "names", names.keys_that_escape,
        "Keys that are not allowed are refused for reading and for writing.",
    ),
    Check(
        "neighbours", "names", names.neighbours,
        "A change touches no entry but its own, however alike the names are.",
    ),
    Check(
        "entry-beside-folder", "names", names.entry_beside_folder,
        "An entry stands beside a folder of its name, and its removal removes nothing below.",
    ),
    Check(
        "obstacles", "names", names.obstacles,
        "What is declared not to stand side by side is told as an obstacle, and nothing else is.",
    ),
    Check(
        "empty-content", "integrity", content.empty_content,
        "Empty content makes an entry, which is not absence.",
    ),
    Check(
        "byte-order-mark", "integrity", content.byte_order_mark,
        "A byte order mark is content and comes back.",
    ),
    Check(
        "blanks-at-the-ends", "integrity", content.blanks_at_the_ends,
        "Blanks and newlines at the end come back, and none are added.",
    ),
    Check(
        "line-ends", "integrity", content.line_ends,
        "CRLF and CR come back as they are, or as LF where `lf` is declared.",
    ),
    Check(
        "every-script", "integrity", content.every_script,
        "Any Unicode text comes back byte for byte, control characters included.",
    ),
    Check(
        "large-content", "integrity", content.large_content,
        "A mebibyte, or as much as is declared to be allowed, comes back whole.",
    ),
    Check(
        "create-over-existing", "cas", conditions.create_over_existing,
        "A create over an existing entry drifts and changes nothing.",
    ),
    Check(
        "stale-overwrite", "cas", conditions.stale_overwrite,
        "An overwrite of an entry whose content has changed drifts and changes nothing.",
    ),
    Check(
        "stale-metadata", "cas", conditions.stale_metadata,
        "An overwrite of an entry whose metadata has changed drifts and changes nothing.",
    ),
    Check(
        "stale-removal", "cas", conditions.stale_removal,
        "A removal of an entry that has changed drifts and changes nothing.",
    ),
    Check(
        "interleaved-create", "cas", conditions.interleaved_create,
        "An entry that somebody creates between our look and our create is not lost.",
    ),
    Check(
        "interleaved-overwrite", "cas", conditions.interleaved_overwrite,
        "An update that somebody makes between our look and our overwrite is not lost.",
    ),
    Check(
        "interleaved-removal", "cas", conditions.interleaved_removal,
        "An update that somebody makes between our look and our removal is not lost.",
    ),
    Check(
        "one-winner", "cas", conditions.one_winner,
        "Of many writers that create one entry at once exactly one wins, and its content stands.",
    ),
    Check(
        "no-lost-update", "cas", conditions.no_lost_update,
        "Of two writers of one entry neither loses an acknowledged update, unless it was set aside "
        "under a name that a receipt tells.",
    ),
    Check(
        "complete-and-sorted", "list", reading.complete_and_sorted,
        "Listings are complete, without duplicates, and sorted by the whole key.",
    ),
    Check(
        "scope", "list", reading.scope,
        "The scope limits snapshots and keys.",
    ),
    Check(
        "states-of-now", "list", reading.states_of_now,
        "A snapshot tells the states of now: not older ones, and nothing that was removed.",
    ),
    Check(
        "healthy", "list", reading.healthy,
        "Many entries are written at once, and nothing of a healthy store is unreadable.",
    ),
    Check(
        "overwrites-seen-whole", "visibility", visibility.overwrites_seen_whole,
        "While an entry is overwritten others see it whole: as before or as after, never absent.",
    ),
    Check(
        "creations-seen-whole", "visibility", visibility.creations_seen_whole,
        "While an entry is created others see it whole or not at all.",
    ),
    Check(
        "found-again", "durability", durability.found_again,
        "What was acknowledged is found by a second connection, and what was removed is not.",
    ),
    Check(
        "nothing-before-intent", "durability", durability.nothing_before_intent,
        "The intent is asked for once, and nothing takes effect before it has returned.",
    ),
    Check(
        "intent-names-changes", "durability", durability.intent_names_changes,
        "The intent is told every change that takes effect, and none that is refused before.",
    ),
    Check(
        "failing-intent", "durability", durability.failing_intent,
        "Nothing takes effect when the intent raises, and the write raises it too.",
    ),
    Check(
        "cut-off-is-finished", "durability", durability.cut_off_is_finished,
        "A change that was cut off anywhere is finished by the same change, resumed.",
    ),
    Check(
        "cut-off-removal-is-finished", "durability", durability.cut_off_removal_is_finished,
        "A removal that was cut off is finished by the same removal, resumed.",
    ),
    Check(
        "resumed-still-guards", "durability", durability.resumed_still_guards,
        "A resumed change does not touch an entry that is neither as before nor as after.",
    ),
    Check(
        "tidying", "durability", durability.tidying,
        "Tidying up after earlier runs removes no entry.",
    ),
    Check(
        "lock-excludes", "lock", identity.lock_excludes,
        "Where a store has locks, a second holder is kept out until the first one is done.",
    ),
    Check(
        "lock-ends", "lock", identity.lock_ends,
        "A lock ends with its context, also after an error, and does not keep its holder out.",
    ),
    Check(
        "one-bad-entry", "errors", limits.one_bad_entry,
        "Receipts come in order, and one bad change stays one.",
    ),
    Check(
        "failures-are-told", "errors", limits.failures_are_told,
        "A failure says why, and whether the entry was seen to be intact.",
    ),
    Check(
        "receipts-are-what-stands", "errors", limits.receipts_are_what_stands,
        "A receipt never tells a state that is not the one that stands.",
    ),
    Check(
        "entry-limit", "limits", limits.entry_limit,
        "Content of the declared size is accepted, and larger content fails with nothing changed.",
    ),
    Check(
        "name-limit", "limits", limits.name_limit,
        "Names of the declared length keep every byte, and longer ones fail.",
    ),
    Check(
        "longest-key", "limits", limits.longest_key,
        "Keys of about 1,024 bytes that differ at their end are entries of their own.",
    ),
    Check(
        "endpoint-without-secrets", "identity", identity.endpoint_without_secrets,
        "The endpoint has a kind and a location, without user, password and query.", writes=False,
    ),
    Check(
        "same-endpoint-again", "identity", identity.same_endpoint_again,
        "A second connection has the same endpoint and capabilities, and may be closed twice.",
    ),
    Check(
        "vanished", "identity", identity.vanished,
        "A store that was taken away is told not to be present.",
    ),
    Check(
        "model", "chaos", chaos.model,
        "After random changes, stale ones among them, everything is as a simple model says.",
    ),
    Check(
        "outside", "chaos", chaos.outside_is_untouched,
        "Nothing outside of the prefix has changed since before the first check.",
        writes=False, last=True,
    ),
)  # fmt: skip
"""In the order in which they run; the last ones run when everything is cleaned up."""
