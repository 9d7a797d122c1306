// One sequence as the batcher keeps it. Plain state: every rule about it is in the batcher.
#pragma once
#include "actors/common/prefix_hash.hpp"
#include "actors/common/request.hpp"
#include "actors/common/time.hpp"
#include <compare>
#include <cstdint>
#include <optional>
#include <vector>

namespace hflex::instance {

enum class stage : std::uint8_t {
  waiting,   ///< no blocks: not started, or preempted
  running,   ///< has blocks; prefilling or decoding
  sending,   ///< prefilled; its blocks are held until the decode instance has acknowledged them
  offered,   ///< announced by a prefill instance; waits for blocks
  receiving, ///< has blocks that the data plane writes to
};

/// The hand-over that a sequence is part of, on either side.
struct handover {
  transfer_id id;
  instance_id peer;
  time_point lease_until;
  std::uint32_t ahead{}; ///< migration: rows beyond those of the tokens offered; 0: no migration
  // prefill side
  std::uint32_t rows{};        ///< to be sent: of the tokens offered, and `ahead`
  std::uint32_t rows_pushed{}; ///< from the front
  bool outbound{false};
  bool open{false}; ///< accepted, open at the transport
  bool delivered{false};
  std::optional<time_point> prefilled_at; ///< since then nothing but the rows on their way keeps it here
  bool committed{false};                  ///< migration: it has stopped here, and the sink has the last word
  // decode side
  bool landed{false};
  std::optional<token_id> first; ///< first token, or migration: the last one, once committed
  std::vector<token_id> earlier; ///< migration: those between the tokens offered and `first`

  bool live() const { return ahead > 0; }
};

/// Who goes first: requests that the client already has tokens of, then the earliest due, then the first to arrive.
struct rank {
  bool fresh{};
  time_point due;
  std::uint64_t serial{};
  friend constexpr auto operator<=>(const rank&, const rank&) = default;
};

struct sequence {
  std::uint64_t serial{}; ///< order of arrival here
  sequence_spec spec;     ///< its tokens grow by each one sampled
  instance_id decode_at;  ///< none: decode here
  stage at{stage::waiting};
  rank place; ///< in the waiting queue
  std::vector<std::uint32_t> blocks;
  std::uint32_t num_computed_tokens{};
  std::vector<block_hash> chain;            ///< of the full blocks of its tokens, from the first, as far as asked for
  std::uint32_t published{};                ///< blocks from the first that can be found, or whose twin can
  std::uint32_t cached_prompt_tokens{};     ///< of the prompt, found in the prefix cache when it started
  std::optional<time_point> first_token_at; ///< known when this attempt made it
  bool started{false};                      ///< had blocks once: waiting again means preempted
  bool in_step{false};                      ///< part of the step in flight
  bool relegated{false};                    ///< its first token is late for certain: behind those with a chance
  double credit{0.0};                       ///< steps that it may decode in, under step_policy::credits
  std::optional<handover> transfer;
  transfer_id came_by; ///< decode side: the transfer that brought it, for a late abort

  std::uint32_t length() const { return static_cast<std::uint32_t>(spec.tokens.size()); }
  std::uint32_t remaining() const { return length() - num_computed_tokens; }
  /// Tokens to have blocks for: migrating in, those that are decoded at the source meanwhile as well.
  std::uint32_t to_hold() const { return length() + (transfer && !transfer->outbound ? transfer->ahead : 0); }
  /// Migrating out, and stopped.
  bool paused() const { return transfer && transfer->committed; }
};

} // namespace hflex::instance
