"""Know how the answers to random questions of every size differ from those of NSD, Knot DNS and BIND, and why.

Each question is put to each nameserver as it is, and through a shield in front of it, cold and warm. What comes through
a shield must be what fits of the nameserver's whole answer, by the rule that `support.fitting` states apart from the
shield's code; so a difference has one of the reasons below, and no other. They are counted and printed, each with a
question that shows it. Where NSD and Knot DNS leave out the same, so must the shield.

`make proof` asks 5,000 questions of each; for more, say so:

    FUNKENSHIELD_DIFFERENTIAL=100000 .venv/bin/python -m pytest -m proof -rP tests/proof/test_answer_sizes.py
"""

import contextlib
import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from differential.conftest import PATIENT
from dns.rdatatype import AAAA, CNAME, A
from support.control import request
from support.fitting import ADDITIONAL, AUTHORITY, is_what_fits, needed, read
from support.nameservers import bind, knot, nsd
from support.pipeline import ask_all
from support.process import run_shield
from support.questions import Edns, draw
from support.zones import make_zones

A_ROUND = 1000  # questions
QUESTIONS = int(os.environ.get("FUNKENSHIELD_DIFFERENTIAL", 5 * A_ROUND))
SEED = int(os.environ.get("FUNKENSHIELD_SEED", "2181"))
UDP_PLAIN, PAYLOAD, LARGEST = 512, 1232, 4096  # octets
AGED = 60  # seconds that a round may take
TC = 2
PURGE = b'{"command": "purge", "name": ".", "below": true}'
NAMESERVERS = {"nsd": nsd, "knot": knot, "bind": bind}
KINDS = {
    "same": "nothing differs",
    "more than ours": "the client takes more than `udp.max_payload`, and the nameserver gives it",
    "cut, and not here": "the nameserver sets TC where what is needed fits",
    "cut here": "the nameserver leaves out, without TC, addresses in the zone that is delegated (RFC 9471)",
    "denial cut here": "the nameserver leaves out, without TC, what denies that there is anything behind an alias",
    "cut otherwise": "both set TC; with it, the nameserver tells a part, and the shield nothing",
    "less there": "the nameserver leaves out more than it must",
    "another there": "the nameserver leaves out another RRset, or has another order",
    "an error": "the nameserver's has no question, and so another comes in its place",
    "spelled otherwise": "the same records, in which a name is compressed otherwise",
    "unexplained": "none of these",
}

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600 + QUESTIONS // 5)]


def sized(rng, question):
    """Return the question with a payload size drawn anew, and without options: they are for other tests."""
    if question.edns is None:
        return question
    size = rng.choice([UDP_PLAIN, rng.randint(UDP_PLAIN, PAYLOAD), rng.randint(UDP_PLAIN, LARGEST)])
    return replace(question, edns=Edns(size, question.edns.flags))


def as_the_shield_asks(question):
    return replace(question, edns=replace(question.edns, payload=PAYLOAD)) if question.edns else question


def whole_answers(nameserver, questions, direct):
    """Return what the shield has to take its answer from: what it is told over UDP, or else over TCP; or passes on."""
    asked = [as_the_shield_asks(question).to_wire() for question in questions]
    told = ask_all(nameserver, asked)
    again = [number for number, wire in enumerate(told) if wire[2] & TC]
    for number, wire in zip(again, ask_all(nameserver, [asked[n] for n in again], tcp=True), strict=True):
        told[number] = wire
    return [{one, other} for one, other in zip(told, direct, strict=True)]


def limit_of(question):
    return min(max(question.edns.payload, UDP_PLAIN), PAYLOAD) if question.edns else UDP_PLAIN


def kind_of(reply, direct, wholes):
    """Return how a reply that is right differs from the nameserver's own answer."""
    if reply[2:] == direct[2:]:
        return "same"
    here, there = told(reply), told(direct)
    if not direct[5] and not there:
        return "an error"
    if len(direct) > PAYLOAD:
        return "more than ours"
    if reply[2] & TC:
        return "cut otherwise" if direct[2] & TC else what_is_lacking(there, wholes)
    if direct[2] & TC:
        return "cut, and not here"
    return "another there" if there - here else "less there" if here - there else "spelled otherwise"


def what_is_lacking(there, wholes):
    """Return how an answer without TC is short of what is needed."""
    lacking = max((_counted(needed(whole)) - there for whole in wholes), key=len)
    if lacking and all(section == ADDITIONAL and rdtype in (A, AAAA) for section, _, rdtype, _ in lacking):
        return "cut here"
    alias = any(rdtype == CNAME for _, _, rdtype, _ in there)
    denial = (
        alias and all(section == AUTHORITY for section, *_ in lacking) and AUTHORITY not in {one[0] for one in there}
    )
    return "denial cut here" if lacking and denial else "unexplained"


def alike(cold, warm):
    """Tell whether a miss and a hit are the same but for TTLs."""
    return cold[2:] == warm[2:] or (cold[2:12] == warm[2:12] and len(cold) == len(warm) and told(cold) == told(warm))


def told(wire):
    """Return the RRsets of a message, each with how many records it has."""
    return _counted(read(wire))


def _counted(records):
    return Counter((each.section, each.name, each.rdtype, each.covered) for each in records)


def test_answers_differ_only_where_and_as_they_should():
    print(f"FUNKENSHIELD_SEED={SEED}")
    zones = make_zones()
    counts, examples, wrong, agreed = Counter(), {}, [], Counter()
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(run(zones)) for name, run in NAMESERVERS.items()}
        shields = {name: stack.enter_context(run_shield([server], toml=PATIENT)) for name, server in servers.items()}
        for seed in range(SEED, SEED + -(-QUESTIONS // A_ROUND)):
            rng = random.Random(seed)
            questions = [sized(rng, question) for question in draw(seed, A_ROUND)]
            wires = [question.to_wire() for question in questions]
            found = {}
            for name, server in servers.items():
                assert request(shields[name], PURGE) == [{"ok": True}]
                direct = ask_all(server, wires)
                whole = whole_answers(server, questions, direct)
                cold, warm = ask_all(shields[name], wires), ask_all(shields[name], wires)
                found[name] = direct, cold
                for question, own, wholes, *replies in zip(questions, direct, whole, cold, warm, strict=True):
                    limit = limit_of(question)
                    right = all(len(reply) <= limit and is_right(reply, wholes, limit) for reply in {*replies})
                    kind = kind_of(replies[0], own, wholes)
                    if not right or kind == "unexplained" or not alike(*replies):
                        wrong.append(f"{question.dig(server.address)}\n{question.dig(shields[name].address)}")
                    counts[name, kind] += 1
                    examples.setdefault((name, kind), question.dig(server.address))
            for number, question in enumerate(questions):
                agreed[
                    agreement(question, *(found[name][which][number] for name in ("nsd", "knot") for which in (0, 1)))
                ] += 1
            assert not wrong, "\n\n".join(wrong[:5])
    show(counts, examples)
    print(dict(agreed))
    assert not agreed["and the shield does not"]


def is_right(reply, wholes, limit):
    """Tell whether a reply is what fits of one of these, or is one of them octet by octet."""
    return any(
        reply[2:] == whole[2:] or (is_what_fits(reply, whole, limit, aged=AGED) and not (whole[2] & TC and read(whole)))
        for whole in wholes
    )


def agreement(question, nsd_direct, nsd_reply, knot_direct, knot_reply):
    """Tell whether NSD and Knot DNS leave out the same, and if so, whether the shield does as they do."""
    if question.edns and question.edns.payload > PAYLOAD:
        return "more than ours"
    outcomes = [(wire[2] & TC, None if wire[2] & TC else told(wire)) for wire in (nsd_direct, knot_direct)]
    if outcomes[0] != outcomes[1]:
        return "they differ"
    here = [(wire[2] & TC, None if wire[2] & TC else told(wire)) for wire in (nsd_reply, knot_reply)]
    return "they agree, with the shield" if here == outcomes else "and the shield does not"


def show(counts, examples):
    """Print how many answers differ in each way, and one question of each."""
    print(f"{'':20}" + "".join(f"{name:>10}" for name in NAMESERVERS))
    for kind, why in KINDS.items():
        print(f"{kind:20}" + "".join(f"{counts[name, kind]:10}" for name in NAMESERVERS) + f"  {why}")
    for (name, kind), command in sorted(examples.items()):
        if kind != "same":
            print(f"{name}, {kind}: {command}")
