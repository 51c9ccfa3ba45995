"""Inspect Checkpoint: the report as an output and on the node, and read again when the file is another."""

import os

import pytest


def test_the_report_is_an_output_and_on_the_node(nodes, files):
    output = nodes["CNetInspect"].execute(file_name="first.safetensors")
    (report,) = output.args
    assert "ControlNet" in report and "text 8" in report
    assert output.ui.as_dict() == {"text": (report,)}


def test_a_file_that_is_no_checkpoint_says_so(nodes, files):
    (files / "page.safetensors").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.safetensors.*web page"):
        nodes["CNetInspect"].execute(file_name="page.safetensors")


def test_a_replaced_file_is_inspected_again(nodes, files):
    path = files / "changing.safetensors"
    fingerprint = nodes["CNetInspect"].fingerprint_inputs
    path.write_bytes(b"1")
    first = fingerprint("changing.safetensors")
    assert fingerprint("changing.safetensors") == first
    path.write_bytes(b"12")
    longer = fingerprint("changing.safetensors")
    os.utime(path, ns=(1, 1))
    assert len({first, longer, fingerprint("changing.safetensors")}) == 3


def test_linked_names_come_as_none_and_change_nothing(nodes):
    """Hosts ask before they know them; an error would make the node run each time."""
    for node, names in {
        "CNetInspect": ["file_name"],
        "CNetLoadControlNet": ["control_net_name", "base_control_net"],
        "CNetLoadPose": ["file"],
    }.items():
        fingerprint = nodes[node].fingerprint_inputs
        assert fingerprint(**dict.fromkeys(names)) == fingerprint(**dict.fromkeys(names))
