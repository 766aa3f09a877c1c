"""Image data in FFCV's .beton format: conversion, reading, order, augmentation and loading."""
