// mma.sync by hand: the fragments' layouts are PTX's, the sums are in order of depth, in fp32.
#pragma once

#include "meetings.h"

namespace emu {

// m16n8k16 (ISA 9.7.14.5.8).
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

// m16n8k8 for TF32 (ISA 9.7.14.5.7): of each fp32 the tensor cores read the upper 19 bits.
inline void mma_16x8x8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    float a[4], b[2];
  } own;
  const auto read = [](uint32_t bits) {
    bits &= ~0x1FFFu;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  for (int i = 0; i < 4; ++i) own.a[i] = read(a[i]);
  own.b[0] = read(b0);
  own.b[1] = read(b1);
  const auto all = meet("mma", ~0u, own);
  const int group = current().lane / 4, pair = current().lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int high_row = i / 2, column = 2 * pair + i % 2;
    for (int k = 0; k < 8; ++k) {
      d[i] += all[group * 4 + k % 4].a[k / 4 * 2 + high_row] * all[column * 4 + k % 4].b[k / 4];
    }
  }
}

}  // namespace emu
