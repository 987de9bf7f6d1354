// mma.sync m16n8k16 by hand: the fragments' layout is PTX's (ISA 9.7.14.5.8), the sums are in
// order of depth, in fp32.
#pragma once

#include "machine.h"

namespace emu {

template <class T, class Widen>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                 const Widen& widen) {
  struct Fragments {
    T a[4][2], b[2][2];
  } own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b[0], &b0, sizeof b0);
  std::memcpy(own.b[1], &b1, sizeof b1);
  const auto all = meet("mma", ~0u, own);
  const int group = current().lane / 4, pair = current().lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int low_row = i / 2 == 0, column = 2 * pair + i % 2;
    for (int k = 0; k < 16; ++k) {
      const Fragments& left = all[group * 4 + k % 8 / 2];
      const Fragments& right = all[column * 4 + k % 8 / 2];
      d[i] += widen(left.a[k / 8 * 2 + !low_row][k % 2]) * widen(right.b[k / 8][k % 2]);
    }
  }
}

}  // namespace emu
