// Greedy longest match: a text is cut, from its start, into the longest token that each place begins with.
// The tokens stand in a double-array trie: the child of node n for byte c is slot base(n) + c, and it is really
// n's child only if its parent is n. One step is two loads, whatever the number of children.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <utility>
#include <vector>

#include "export.h"

namespace {

constexpr std::uint32_t none = 0xffffffff;  // as a parent: the slot is free; as an id: no token ends here
constexpr std::uint32_t root = 0;
constexpr std::uint64_t patience = 256;  // slots looked at before the holes behind them are given up

struct Slot {
  std::uint32_t base = 0;  // a leaf keeps 0: no slot names it as its parent, so it has no child
  std::uint32_t parent = none;
  std::uint32_t id = none;
};

struct Token {
  const std::uint8_t *bytes;
  std::uint64_t length;
  std::uint32_t id;

  bool operator<(const Token &other) const {
    const int order = std::memcmp(bytes, other.bytes, std::min(length, other.length));
    return order != 0 ? order < 0 : length < other.length;
  }
};

// The tokens below one node: they lie side by side once sorted, and agree in their first `depth` bytes.
struct Range {
  std::uint32_t node;
  std::uint64_t first, last, depth;
};

class Builder {
 public:
  explicit Builder(std::vector<Token> tokens) : tokens_(std::move(tokens)), slots_(1) {
    std::sort(tokens_.begin(), tokens_.end());
  }

  // Breadth first, so that the nodes near the root, which every token passes, share few cache lines.
  std::vector<Slot> build() {
    std::vector<Range> ranges{{root, 0, tokens_.size(), 0}};
    for (std::size_t next = 0; next < ranges.size(); ++next) place_children(ranges[next], ranges);
    return std::move(slots_);
  }

 private:
  void place_children(Range range, std::vector<Range> &ranges) {
    for (; range.first < range.last && tokens_[range.first].length == range.depth; ++range.first)
      slots_[range.node].id = tokens_[range.first].id;
    if (range.first == range.last) return;
    const std::size_t born = ranges.size();
    labels_.clear();
    for (std::uint64_t i = range.first; i < range.last; ++i) {
      const std::uint8_t label = tokens_[i].bytes[range.depth];
      if (labels_.empty() || labels_.back() != label) {
        labels_.push_back(label);
        ranges.push_back({none, i, i, range.depth + 1});
      }
      ranges.back().last = i + 1;
    }
    const std::uint32_t base = find_base();
    slots_[range.node].base = base;
    for (std::size_t i = 0; i < labels_.size(); ++i) {
      const std::uint32_t child = base + labels_[i];
      slots_[child].parent = range.node;
      ranges[born + i].node = child;
    }
  }

  // The first base whose slots are free for every label. The search starts behind the slots that earlier
  // searches found crowded, so that building takes time in proportion to the nodes.
  std::uint32_t find_base() {
    const std::uint64_t start = std::max<std::uint64_t>(search_from_, labels_.front() + 1u);
    for (std::uint64_t slot = start;; ++slot) {
      const std::uint64_t base = slot - labels_.front();
      if (base + 256 >= none) throw std::bad_alloc();
      if (slots_.size() < base + 256) slots_.resize(base + 256);  // a step may land on any of these
      const bool fits = std::all_of(labels_.begin(), labels_.end(),
                                    [&](std::uint8_t label) { return slots_[base + label].parent == none; });
      if (!fits) continue;
      if (slot - start > patience) search_from_ = slot;
      return static_cast<std::uint32_t>(base);
    }
  }

  std::vector<Token> tokens_;
  std::vector<Slot> slots_;
  std::vector<std::uint8_t> labels_;
  std::uint64_t search_from_ = 1;
};

}  // namespace

struct receptance_trie {
  std::vector<Slot> slots;
};

// Token i is bytes[offsets[i]] up to bytes[offsets[i + 1]], not empty, and has ids[i]. The bytes are copied.
// Returns null where memory does not suffice.
RECEPTANCE_EXPORT receptance_trie *receptance_trie_build(const std::uint8_t *bytes, const std::uint64_t *offsets,
                                                         const std::uint32_t *ids, std::uint64_t count) {
  try {
    std::vector<Token> tokens;
    tokens.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i)
      tokens.push_back({bytes + offsets[i], offsets[i + 1] - offsets[i], ids[i]});
    return new receptance_trie{Builder(std::move(tokens)).build()};
  } catch (const std::exception &) {  // nothing may be thrown into C
    return nullptr;
  }
}

// Writes the ids of the text from *position on, and moves *position behind what they cover. Stops at the end of
// the text, when `capacity` ids are written, or where no token fits. Returns how many ids were written.
RECEPTANCE_EXPORT std::uint64_t receptance_trie_encode(const receptance_trie *trie, const std::uint8_t *text,
                                                       std::uint64_t length, std::uint64_t *position,
                                                       std::uint32_t *ids, std::uint64_t capacity) {
  const Slot *slots = trie->slots.data();
  std::uint64_t start = *position, count = 0;
  while (start < length && count < capacity) {
    std::uint32_t node = root, id = none;
    std::uint64_t end = start;
    for (std::uint64_t i = start; i < length; ++i) {
      const std::uint32_t child = slots[node].base + text[i];
      if (slots[child].parent != node) break;
      node = child;
      if (slots[node].id == none) continue;
      id = slots[node].id;
      end = i + 1;
    }
    if (id == none) break;
    ids[count++] = id;
    start = end;
  }
  *position = start;
  return count;
}

RECEPTANCE_EXPORT void receptance_trie_free(receptance_trie *trie) { delete trie; }
