from __future__ import annotations

import hashlib

from receptance.data.document import Document
from receptance.tokenizers.conversation import Span


def test_a_document_is_known_by_its_text_however_it_is_cut_into_spans() -> None:
    parted = Document((Span("a", is_learnt=False), Span("ä", is_learnt=True)))
    assert parted.text == "aä"
    assert parted.digest == Document.plain("aä").digest != Document.plain("a").digest
    assert parted.digest == hashlib.blake2b("aä".encode(), digest_size=16).digest()
    assert Document.plain("aä").is_plain
    assert not parted.is_plain
