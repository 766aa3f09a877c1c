/* Huffman decoding of baseline JPEGs in place of libjpeg's: one table look-up gives a coefficient's
 * run, size and value together. */

#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

typedef struct FastHuffman FastHuffman;

/* Takes over from libjpeg's decoder after jpeg_start_decompress, where the file is of the common
 * kind: baseline, one scan, no restart markers. NULL, and nothing is changed, where it is not.
 * `on_anomaly` is called, and must not return, where the data is not what it should be: what
 * damaged files mean is left to libjpeg. */
FastHuffman *fast_huffman_install(j_decompress_ptr info, void (*on_anomaly)(j_common_ptr));

void fast_huffman_free(FastHuffman *state);

#endif
