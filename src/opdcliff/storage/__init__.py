"""What is written to disk: one canonical form, atomic files, cached assets, provenance.

Secrets are taken out here, before anything leaves the process.
"""

from __future__ import annotations

from opdcliff.storage import asset_cache
from opdcliff.storage.appending import append_line
from opdcliff.storage.asset_cache import Asset, content_digest
from opdcliff.storage.canonical import (
    FOREIGN_ENDS,
    MEND_ENDS,
    canonical_json,
    decode_float,
    decode_floats,
    differs,
    digest,
    encode_floats,
    file_digest,
    fsync_folder,
    fsync_tree,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
    writing,
)
from opdcliff.storage.conf_groups import default_of, describe, group_names, options_of
from opdcliff.storage.provenance import (
    code_state,
    git,
    git_refusal,
    host_class,
    now,
    package_version,
    run_provenance,
    source_digest,
    unknown_code,
)
from opdcliff.storage.redaction import redact, redact_file, redact_text, refuse_secrets
from opdcliff.storage.wording import foreign_encoding, in_words, kind_of, short, told, visible
from opdcliff.storage.yaml_text import read_yaml

__all__ = [
    "FOREIGN_ENDS",
    "MEND_ENDS",
    "Asset",
    "append_line",
    "asset_cache",
    "canonical_json",
    "code_state",
    "content_digest",
    "decode_float",
    "decode_floats",
    "default_of",
    "describe",
    "differs",
    "digest",
    "encode_floats",
    "file_digest",
    "foreign_encoding",
    "fsync_folder",
    "fsync_tree",
    "git",
    "git_refusal",
    "group_names",
    "host_class",
    "in_words",
    "kind_of",
    "now",
    "options_of",
    "package_version",
    "read_yaml",
    "redact",
    "redact_file",
    "redact_text",
    "refuse_secrets",
    "run_provenance",
    "short",
    "source_digest",
    "told",
    "unknown_code",
    "visible",
    "write_bytes_atomic",
    "write_json_atomic",
    "write_text_atomic",
    "writing",
]
