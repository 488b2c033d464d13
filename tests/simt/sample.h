/* sample.h - the sample kernels of sample.cu, right and with one defect each;
 * the simulator's own tests run them. */
#ifndef KS_SIMT_SAMPLE_H
#define KS_SIMT_SAMPLE_H

enum sample_defect {
    SOUND,
    NO_BARRIER,      /* a __syncthreads is missing */
    DIVERGENT,       /* only part of the block reaches a barrier */
    EARLY_RETURN,    /* part of the block returns before a barrier */
    ABSENT_LANE,     /* a shuffle names a lane that does not come */
    LANE_AT_BARRIER, /* ... that waits elsewhere */
    NO_SYNCWARP,     /* lanes exchange through shared memory without one */
    READ_PAST,       /* index off by one, beyond the buffer's end */
    WRITE_PAST,
    SHARED_PAST,       /* the same in shared memory */
    NO_WAIT,           /* a cp.async is read before its wait */
    LATE_WAIT,         /* the wait leaves one group too many in flight */
    NO_REUSE_BARRIER,  /* a tile is overwritten while others read it */
    BLOCK_RACE,        /* two blocks write one address */
    SWAPPED_REGISTERS, /* of an mma fragment */
    WRONG_MASK,        /* at the tile's edge */
    UNWRITTEN          /* reads device memory that nobody wrote */
};

/* Each runs its kernel on random data of odd shape and compares: 0 right, 1
 * wrong, 2 an error of the runtime. */
int sample_block_sum(enum sample_defect defect);
int sample_warp_scan(enum sample_defect defect);
int sample_transpose(enum sample_defect defect);
int sample_gemm(enum sample_defect defect);
int sample_total(enum sample_defect defect);

#endif
