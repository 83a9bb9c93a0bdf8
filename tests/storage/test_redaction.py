"""Secrets are found by name and by value, and what only looks like one is left alone."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

import pytest

from opdcliff.records.record import read_record, run_identity
from opdcliff.records.writer import RunRecord
from opdcliff.storage.redaction import redact
from record_helpers import CLAIM

pytestmark = pytest.mark.usefixtures("no_git")

SECRET = "s3cr3t-value-0123456789"
SECRET_NAMES = """
    api_key apiKey WANDB_API_KEY token hf_token HF_TOKEN authToken password db-password secret
    client_secret aws_secret_access_key ssh.private_key credentials
"""
PLAIN_NAMES = """
    max_new_tokens tokens tokenizer token_class pad_token eos_token eos_token_id per_token
    key keys sort_key monkey passes
"""


@pytest.mark.parametrize("key", SECRET_NAMES.split())
def test_secret_names(key: str) -> None:
    assert redact({key: SECRET}) == {key: "***"}
    assert redact({"a": [{key: {"x": 1}}]}) == {"a": [{key: "***"}]}
    assert redact({key: None}) == {key: None}


@pytest.mark.parametrize("key", PLAIN_NAMES.split())
def test_names_that_only_look_like_secrets(key: str) -> None:
    assert redact({key: "plain", "nested": {key: 64}}) == {key: "plain", "nested": {key: 64}}


def test_redact_leaves_its_argument_and_the_identity_alone() -> None:
    config = {"wandb": {"api_key": SECRET}, "lam": 1.0}
    redact(config)
    assert config == {"wandb": {"api_key": SECRET}, "lam": 1.0}
    assert run_identity({"b": 1, "a": 2.0}) == run_identity({"a": 2.0, "b": 1})
    assert run_identity({"a": 2.0}) != run_identity({"a": 2})


def test_no_secret_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "distinctive-host")
    monkeypatch.setattr(socket, "gethostname", lambda: "distinctive-host")
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "environment-" + SECRET)
    monkeypatch.setenv("HARMLESS", "harmless-value-0123456789")
    config = {"api_key": SECRET, "url": f"https://u:environment-{SECRET}@host", "lam": 1.0}
    record = RunRecord.create(tmp_path, **CLAIM | {"config": config}, extras={"password": SECRET})
    record.note(hf_token=SECRET)
    record.close("failed", f"401 for environment-{SECRET}", header=f"x environment-{SECRET}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        text = path.read_text()
        assert SECRET not in text
        assert "harmless-value" not in text
        assert "distinctive-host" not in text
    assert read_record(tmp_path).config["url"] == "https://u:***@host"
    assert read_record(tmp_path).manifest["reason"] == "401 for ***"
