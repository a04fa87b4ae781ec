"""Text to token ids and back: the World vocabulary, byte-level BPE, plain bytes.

Three promises hold for every tokenizer here. Text never becomes the id that ends a document, nor any other
special token, whatever it spells. Ids become bytes first and text only then, so a stream of ids never shows
half a character and loses none. A tokenizer that cannot belong to a model is refused by `find_tokenizer`.
"""

from receptance.tokenizers.bpe import train_bpe
from receptance.tokenizers.interface import StreamDecoder, Tokenizer
from receptance.tokenizers.load import find_tokenizer, load_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "find_tokenizer", "load_tokenizer", "train_bpe"]
